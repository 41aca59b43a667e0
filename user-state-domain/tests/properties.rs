//! What holds for every input: properties of commands, events, state and keys.
//!
//! proptest draws histories of commands with instants from all of chrono's range (its ends and leap seconds
//! included) and texts of any Unicode, and shrinks what breaks a property. The reducer is checked against an
//! independent model that looks at the whole history at once.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use cqrs_es::test::TestFramework;
use proptest::prelude::*;
use user_state_domain::{
    InvalidKey, KEY_CHARACTERS_MAX, MallId, PRODUCT_ID_BYTES_MAX, ProductId, RECENT_PRODUCTS_MAX,
    RecentProducts, UserCommand, UserError, UserEvent, UserId, UserKey, UserState,
};

fn instants() -> impl Strategy<Value = DateTime<Utc>> {
    let (min, max) = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
    let any = (min.timestamp()..=max.timestamp(), 0..1_000_000_000_u32)
        .prop_map(|(seconds, nanos)| DateTime::from_timestamp(seconds, nanos).unwrap());
    let near = (0..120_i64, 0..3_u32)
        .prop_map(|(seconds, nanos)| DateTime::from_timestamp(seconds, nanos).unwrap());
    let leap = (
        min.timestamp() / 60 + 1..max.timestamp() / 60,
        1_000_000_000..2_000_000_000_u32,
    )
        .prop_map(|(minutes, nanos)| DateTime::from_timestamp(minutes * 60 - 1, nanos).unwrap());
    prop_oneof![3 => near, 2 => any, 1 => leap, 1 => Just(min), 1 => Just(max)]
}

/// Few distinct ids, so that products repeat, and now and then any text at all.
fn products() -> impl Strategy<Value = ProductId> {
    prop_oneof![
        8 => "[a-f]".prop_map(ProductId::from),
        1 => any::<String>().prop_map(ProductId::from),
        1 => (PRODUCT_ID_BYTES_MAX - 1..PRODUCT_ID_BYTES_MAX + 2)
            .prop_map(|length| ProductId::from("x".repeat(length))),
    ]
}

fn commands() -> impl Strategy<Value = UserCommand> {
    prop_oneof![
        instants().prop_map(|at| UserCommand::Login { at }),
        instants().prop_map(|at| UserCommand::UseCart { at }),
        (products(), instants())
            .prop_map(|(product_id, at)| UserCommand::ViewProduct { product_id, at }),
        (any::<bool>(), instants())
            .prop_map(|(opt_in, at)| UserCommand::SetMarketingOptIn { opt_in, at }),
    ]
}

fn histories() -> impl Strategy<Value = Vec<UserEvent>> {
    prop::collection::vec(commands(), 0..40).prop_map(|commands| {
        let accepted = commands.into_iter().map(UserEvent::try_from);
        accepted.filter_map(Result::ok).collect()
    })
}

fn fold(events: &[UserEvent]) -> UserState {
    let mut state = UserState::default();
    for event in events {
        state.apply(event.clone());
    }
    state
}

/// The state that a whole history stands for, by definition rather than by folding.
fn meaning(history: &[UserEvent]) -> UserState {
    let latest = |of_kind: fn(&UserEvent) -> bool| {
        history
            .iter()
            .filter(|event| of_kind(event))
            .map(UserEvent::at)
            .max()
    };
    let viewed_last_first = history.iter().rev().filter_map(|event| match event {
        UserEvent::ProductViewed { product_id, .. } => Some(product_id.clone()),
        _ => None,
    });
    let mut seen = HashSet::new();
    let distinct: Vec<ProductId> = viewed_last_first
        .filter(|product| seen.insert(product.clone()))
        .take(RECENT_PRODUCTS_MAX)
        .collect();
    let opt_in = history.iter().rev().find_map(|event| match event {
        UserEvent::MarketingOptInSet { opt_in, .. } => Some(*opt_in),
        _ => None,
    });
    UserState {
        last_login: latest(|event| matches!(event, UserEvent::LoggedIn { .. })),
        last_cart_used: latest(|event| matches!(event, UserEvent::CartUsed { .. })),
        recent_products: RecentProducts::from(distinct),
        marketing_opt_in: opt_in.unwrap_or_default(),
        last_event_at: latest(|_| true),
    }
}

fn times(state: &UserState) -> [Option<DateTime<Utc>>; 3] {
    [state.last_login, state.last_cart_used, state.last_event_at]
}

proptest! {
    #[test]
    fn the_fold_of_the_events_is_the_state(history in histories()) {
        prop_assert_eq!(fold(&history), meaning(&history));
    }

    #[test]
    fn replaying_any_suffix_of_the_history_changes_nothing(
        history in histories(),
        cut in any::<prop::sample::Index>(),
    ) {
        let state = fold(&history);
        let from = cut.index(history.len() + 1);
        let mut replayed = state.clone();
        for event in &history[from..] {
            replayed.apply(event.clone());
        }
        prop_assert_eq!(replayed, state);
    }

    #[test]
    fn the_instants_never_go_backwards_and_products_stay_few_and_distinct(history in histories()) {
        let mut state = UserState::default();
        for event in history {
            let before = times(&state);
            state.apply(event);
            for (before, after) in before.into_iter().zip(times(&state)) {
                prop_assert!(before <= after);
            }
            let distinct: HashSet<_> = state.recent_products.iter().collect();
            prop_assert!(state.recent_products.len() <= RECENT_PRODUCTS_MAX);
            prop_assert_eq!(distinct.len(), state.recent_products.len());
        }
    }

    #[test]
    fn every_command_is_one_event_or_a_refusal_for_its_product_id(
        history in histories(),
        command in commands(),
    ) {
        let length = match &command {
            UserCommand::ViewProduct { product_id, .. } => Some(product_id.as_str().len()),
            _ => None,
        };
        let result = TestFramework::<UserState>::with(())
            .given(history)
            .when(command.clone())
            .inspect_result();
        match (result, length) {
            (Err(UserError::EmptyProductId), Some(0)) => {}
            (Err(UserError::ProductIdTooLong { bytes }), Some(length)) => {
                prop_assert_eq!(bytes, length);
                prop_assert!(length > PRODUCT_ID_BYTES_MAX);
            }
            (Ok(events), length) => {
                prop_assert_eq!(events, vec![UserEvent::try_from(command).unwrap()]);
                prop_assert!(length.is_none_or(|length| (1..=PRODUCT_ID_BYTES_MAX).contains(&length)));
            }
            (Err(error), _) => prop_assert!(false, "refused without a reason: {error}"),
        }
    }

    #[test]
    fn no_event_of_a_command_and_no_state_lies_inside_a_leap_second(command in commands()) {
        let asked = command.at();
        if let Ok(event) = UserEvent::try_from(command) {
            prop_assert!(event.at() <= asked);
            prop_assert!(event.at().timestamp_subsec_nanos() < 1_000_000_000);
            prop_assert_eq!(event.at().timestamp(), asked.timestamp());
        }
        let mut state = UserState::default();
        state.apply(UserEvent::LoggedIn { at: asked });
        prop_assert!(state.last_login.unwrap().timestamp_subsec_nanos() < 1_000_000_000);
    }

    #[test]
    fn the_serde_forms_of_state_and_events_read_back_the_same(history in histories()) {
        let state = fold(&history);
        let text = serde_json::to_string(&state).unwrap();
        prop_assert_eq!(serde_json::from_str::<UserState>(&text).unwrap(), state);
        let text = serde_json::to_string(&history).unwrap();
        prop_assert_eq!(serde_json::from_str::<Vec<UserEvent>>(&text).unwrap(), history);
    }

    #[test]
    fn a_list_of_products_keeps_its_first_three_distinct_ones(list in prop::collection::vec("[a-e]", 0..9)) {
        let mut seen = HashSet::new();
        let expected: Vec<&str> = list
            .iter()
            .map(String::as_str)
            .filter(|product| seen.insert(*product))
            .take(RECENT_PRODUCTS_MAX)
            .collect();
        let kept: RecentProducts = list.iter().map(|product| ProductId::new(product)).collect();
        prop_assert_eq!(kept.iter().map(ProductId::as_str).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_key_that_parses_is_shown_as_the_same_text(text in "[a-z가-힣😀-]{0,6}-[a-z가-힣😀-]{0,6}|\\PC{0,12}") {
        if let Ok(key) = text.parse::<UserKey>() {
            prop_assert_eq!(key.to_string(), text);
        }
    }

    #[test]
    fn a_key_that_is_shown_parses_as_the_same_key(mall in "[^-|\\pC]{1,20}", user in "[^|\\pC]{1,20}") {
        let key = UserKey::new(MallId::new(&mall).unwrap(), UserId::new(&user).unwrap()).unwrap();
        prop_assert_eq!(key.to_string().parse::<UserKey>(), Ok(key));
    }

    #[test]
    fn any_text_parses_or_has_a_typed_reason_that_is_true(text in any::<String>()) {
        let (mall, user) = text.split_once('-').unwrap_or((&text, ""));
        match text.parse::<UserKey>() {
            Ok(_) => prop_assert!(!mall.is_empty() && !user.is_empty()),
            Err(InvalidKey::NoSeparator) => prop_assert!(!text.contains('-')),
            Err(InvalidKey::EmptyMallId) => prop_assert!(mall.is_empty()),
            Err(InvalidKey::EmptyUserId) => prop_assert!(user.is_empty()),
            Err(InvalidKey::ForbiddenCharacter { character, .. }) => {
                prop_assert!(text.contains(character));
                prop_assert!(character == '|' || character.is_control());
            }
            Err(InvalidKey::TooLong { characters }) => {
                prop_assert_eq!(characters, text.chars().count());
                prop_assert!(characters > KEY_CHARACTERS_MAX);
            }
            Err(other) => prop_assert!(false, "an unknown reason: {other}"),
        }
    }
}

#[test]
fn the_longest_key_has_255_characters_of_any_width() {
    let user = "😀".repeat(KEY_CHARACTERS_MAX - 2);
    assert!(format!("m-{user}").parse::<UserKey>().is_ok());
    assert_eq!(
        format!("m-{user}x").parse::<UserKey>(),
        Err(InvalidKey::TooLong {
            characters: KEY_CHARACTERS_MAX + 1
        })
    );
}

#[test]
fn each_broken_rule_of_a_key_has_its_own_error() {
    let forbidden = |part, character| Err(InvalidKey::ForbiddenCharacter { part, character });
    let cases = [
        ("", Err(InvalidKey::NoSeparator)),
        ("mall", Err(InvalidKey::NoSeparator)),
        ("-user", Err(InvalidKey::EmptyMallId)),
        ("mall-", Err(InvalidKey::EmptyUserId)),
        ("ma|ll-user", forbidden("mall id", '|')),
        ("mall-us|er", forbidden("user id", '|')),
        ("mall-us\0er", forbidden("user id", '\0')),
        ("ma\u{85}ll-user", forbidden("mall id", '\u{85}')),
    ];
    for (text, expected) in cases {
        assert_eq!(text.parse::<UserKey>().map(|_| ()), expected, "{text:?}");
    }
    assert!("mall-user-with-dashes".parse::<UserKey>().is_ok());
}
