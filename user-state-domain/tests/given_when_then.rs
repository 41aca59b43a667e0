//! What each command leaves behind, told as given/when/then with cqrs-es's `TestFramework`.
//!
//! A row of the story is: given these events, when this command comes, then exactly these events follow, or the
//! refusal. What the events mean for the state is checked by folding them.

use chrono::{DateTime, ParseError, TimeDelta, Utc};
use cqrs_es::Aggregate;
use cqrs_es::test::{AggregateTestExecutor, TestFramework};
use user_state_domain::{
    PRODUCT_ID_BYTES_MAX, ProductId, RecentProducts, UserCommand, UserError, UserEvent, UserState,
};

type Tested = Result<(), ParseError>;

fn at(second: u32) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(second.into())
}

fn given(events: Vec<UserEvent>) -> AggregateTestExecutor<UserState> {
    TestFramework::with(()).given(events)
}

fn viewed(product: &str, second: u32) -> UserEvent {
    UserEvent::ProductViewed {
        product_id: ProductId::new(product),
        at: at(second),
    }
}

fn view(product: &str, second: u32) -> UserCommand {
    UserCommand::ViewProduct {
        product_id: ProductId::new(product),
        at: at(second),
    }
}

fn fold(events: impl IntoIterator<Item = UserEvent>) -> UserState {
    let mut state = UserState::default();
    for event in events {
        state.apply(event);
    }
    state
}

fn products(state: &UserState) -> Vec<&str> {
    state
        .recent_products
        .iter()
        .map(ProductId::as_str)
        .collect()
}

#[test]
fn a_new_user_has_done_nothing() {
    let state = UserState::default();
    assert_eq!(
        (state.last_login, state.last_cart_used, state.last_event_at),
        (None, None, None)
    );
    assert!(state.recent_products.is_empty());
    assert!(!state.marketing_opt_in);
}

#[test]
fn a_login_is_remembered() {
    given(vec![])
        .when(UserCommand::Login { at: at(1) })
        .then_expect_events(vec![UserEvent::LoggedIn { at: at(1) }]);
    let state = fold([UserEvent::LoggedIn { at: at(1) }]);
    assert_eq!(
        (state.last_login, state.last_event_at),
        (Some(at(1)), Some(at(1)))
    );
    assert_eq!(state.last_cart_used, None);
}

#[test]
fn a_use_of_the_cart_is_remembered() {
    given(vec![UserEvent::LoggedIn { at: at(1) }])
        .when(UserCommand::UseCart { at: at(2) })
        .then_expect_events(vec![UserEvent::CartUsed { at: at(2) }]);
    let state = fold([
        UserEvent::LoggedIn { at: at(1) },
        UserEvent::CartUsed { at: at(2) },
    ]);
    assert_eq!(
        (state.last_login, state.last_cart_used),
        (Some(at(1)), Some(at(2)))
    );
    assert_eq!(state.last_event_at, Some(at(2)));
}

#[test]
fn of_four_viewed_products_the_last_three_are_kept_newest_first() {
    let three = vec![viewed("p1", 1), viewed("p2", 2), viewed("p3", 3)];
    given(three.clone())
        .when(view("p4", 4))
        .then_expect_events(vec![viewed("p4", 4)]);
    let state = fold(three.into_iter().chain([viewed("p4", 4)]));
    assert_eq!(products(&state), ["p4", "p3", "p2"]);
}

#[test]
fn a_product_viewed_again_moves_to_the_front_and_is_still_an_event() {
    let three = vec![viewed("p1", 1), viewed("p2", 2), viewed("p3", 3)];
    given(three.clone())
        .when(view("p1", 4))
        .then_expect_events(vec![viewed("p1", 4)]);
    let state = fold(three.into_iter().chain([viewed("p1", 4)]));
    assert_eq!(products(&state), ["p1", "p3", "p2"]);
}

#[test]
fn products_follow_arrival_whatever_their_instants() {
    let state = fold([viewed("late", 9), viewed("early", 1)]);
    assert_eq!(products(&state), ["early", "late"]);
    assert_eq!(state.last_event_at, Some(at(9)));
}

#[test]
fn marketing_opt_in_goes_on_and_off_in_the_order_of_arrival() {
    let set = |opt_in, second| UserEvent::MarketingOptInSet {
        opt_in,
        at: at(second),
    };
    given(vec![set(true, 5)])
        .when(UserCommand::SetMarketingOptIn {
            opt_in: false,
            at: at(6),
        })
        .then_expect_events(vec![set(false, 6)]);
    assert!(fold([set(true, 5)]).marketing_opt_in);
    assert!(!fold([set(true, 5), set(false, 1)]).marketing_opt_in);
}

#[test]
fn a_command_that_changes_nothing_is_an_event_all_the_same() {
    given(vec![UserEvent::LoggedIn { at: at(9) }])
        .when(UserCommand::Login { at: at(1) })
        .then_expect_events(vec![UserEvent::LoggedIn { at: at(1) }]);
    let state = fold([
        UserEvent::LoggedIn { at: at(9) },
        UserEvent::LoggedIn { at: at(1) },
    ]);
    assert_eq!(state.last_login, Some(at(9)));
}

#[test]
fn a_view_without_a_product_is_refused() {
    given(vec![viewed("p1", 1)])
        .when(view("", 2))
        .then_expect_error(UserError::EmptyProductId);
}

#[test]
fn an_overlong_product_id_is_refused_and_the_longest_one_kept() {
    let longest = "가".repeat(PRODUCT_ID_BYTES_MAX / 3) + "x";
    assert_eq!(longest.len(), PRODUCT_ID_BYTES_MAX);
    given(vec![])
        .when(view(&longest, 1))
        .then_expect_events(vec![viewed(&longest, 1)]);
    given(vec![])
        .when(view(&(longest + "x"), 1))
        .then_expect_error(UserError::ProductIdTooLong {
            bytes: PRODUCT_ID_BYTES_MAX + 1,
        });
}

#[test]
fn a_leap_second_never_reaches_an_event_or_a_state() -> Tested {
    let leap: DateTime<Utc> = "2016-12-31T23:59:60.5Z".parse()?;
    let before = "2016-12-31T23:59:59.999999999Z".parse()?;
    given(vec![])
        .when(UserCommand::Login { at: leap })
        .then_expect_events(vec![UserEvent::LoggedIn { at: before }]);
    let state = fold([
        UserEvent::LoggedIn { at: leap },
        UserEvent::CartUsed { at: leap },
    ]);
    assert_eq!(
        [state.last_login, state.last_cart_used, state.last_event_at],
        [Some(before); 3]
    );
    Ok(())
}

#[test]
fn a_serialized_state_reads_back_with_absent_fields_as_defaults_and_no_leap_second() {
    let state = fold([
        UserEvent::LoggedIn { at: at(1) },
        viewed("상품-1", 2),
        UserEvent::MarketingOptInSet {
            opt_in: true,
            at: at(3),
        },
    ]);
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<UserState>(&text).unwrap(), state);

    let sparse = r#"{"last_login":"2016-12-31T23:59:60.5Z","recent_products":["a","b","a","c","d"],"new":1}"#;
    let read: UserState = serde_json::from_str(sparse).unwrap();
    assert_eq!(
        read.last_login,
        "2016-12-31T23:59:59.999999999Z".parse().ok()
    );
    assert_eq!(products(&read), ["a", "b", "c"]);
    assert_eq!((read.last_event_at, read.marketing_opt_in), (None, false));
}

#[test]
fn an_empty_product_id_of_another_writer_is_a_product_like_others() {
    let stored = r#"{"recent_products":["","a"]}"#;
    let mut state: UserState = serde_json::from_str(stored).unwrap();
    assert_eq!(products(&state), ["", "a"]);
    assert_ne!(
        state.recent_products,
        RecentProducts::from(vec![ProductId::new("a")])
    );
    state.apply(viewed("b", 1));
    assert_eq!(products(&state), ["b", "", "a"]);
    state.apply(viewed("a", 2));
    assert_eq!(products(&state), ["a", "b", ""]);
    state.apply(viewed("c", 3));
    assert_eq!(products(&state), ["c", "a", "b"]);
}
