//! Random users for the cases of this folder: the same seed gives the same users.

use std::collections::HashSet;

use chrono::{Datelike, NaiveDate, NaiveDateTime, Timelike};
use fastrand::Rng;
use user_state_domain::{MallId, ProductId, UserId, UserKey, UserState};
use user_state_interop::{AnyError, LocalTime, State};

/// The planes of Unicode that have characters: 0 to 16.
const PLANES: u32 = 17;

/// Characters that a writer or reader of text may treat in a way of its own: what JSON escapes or could, line ends, the
/// ends of the ranges of UTF-8 and UTF-16, non-characters.
const TREACHEROUS: &[char] = &[
    '"',
    '\\',
    '/',
    '\'',
    '<',
    '>',
    '&',
    '=',
    '#',
    '\u{0}',
    '\u{1}',
    '\t',
    '\n',
    '\r',
    '\u{8}',
    '\u{c}',
    '\u{b}',
    '\u{1f}',
    '\u{7f}',
    '\u{80}',
    '\u{85}',
    '\u{a0}',
    '\u{7ff}',
    '\u{800}',
    '\u{2028}',
    '\u{2029}',
    '\u{d7ff}',
    '\u{e000}',
    '\u{feff}',
    '\u{fffd}',
    '\u{fffe}',
    '\u{ffff}',
    '\u{10000}',
    '\u{1f642}',
    '\u{1ffff}',
    '\u{10ffff}',
    '각',
    '힣',
    '가',
];

/// The environment variable with another seed.
pub(crate) const SEED: &str = "USER_STATE_INTEROP_SEED";

/// The number that decides every random choice.
pub(crate) fn seed() -> u64 {
    const DEFAULT: u64 = 20_261_122;
    std::env::var(SEED).map_or(DEFAULT, |seed| {
        seed.parse()
            .unwrap_or_else(|_| panic!("{SEED} is not a number: {seed}"))
    })
}

/// A character, of any plane.
pub(crate) fn character(random: &mut Rng) -> char {
    match random.u8(..10) {
        0..4 => random.char('a'..='z'),
        4..7 => TREACHEROUS[random.usize(..TREACHEROUS.len())],
        7 => random.char('가'..='힣'),
        _ => loop {
            let code = random.u32(..PLANES) * 0x1_0000 + random.u32(..0x1_0000);
            if let Some(character) = char::from_u32(code) {
                break character;
            }
        },
    }
}

/// A text of so many characters that all satisfy a condition.
pub(crate) fn text(random: &mut Rng, length: usize, allowed: impl Fn(char) -> bool) -> String {
    let mut text = String::new();
    for _ in 0..length {
        let character = loop {
            let character = character(random);
            if allowed(character) {
                break character;
            }
        };
        text.push(character);
    }
    text
}

/// A user, sometimes with an id as long as it may be.
pub(crate) fn key(random: &mut Rng) -> Result<UserKey, AnyError> {
    let allowed = |character: char| character != '|' && !character.is_control();
    let mall = random.usize(1..20);
    let user = if random.u8(..20) == 0 {
        254 - mall
    } else {
        random.usize(1..20)
    };
    let mall = text(random, mall, |character| {
        allowed(character) && character != '-'
    });
    let user = text(random, user, allowed);
    Ok(UserKey::new(MallId::new(&mall)?, UserId::new(&user)?)?)
}

/// A time with 0 to 9 digits of a fraction, in any year that chrono holds.
pub(crate) fn time(random: &mut Rng) -> NaiveDateTime {
    let (first, last) = (NaiveDate::MIN.year(), NaiveDate::MAX.year());
    let year = match random.u8(..8) {
        0..4 => random.i32(1990..2040),
        4 => random.i32(-20..20),
        5 => random.i32(9_990..10_010),
        _ => random.i32(first..=last),
    };
    let day = random.u32(1..=366);
    let date = NaiveDate::from_yo_opt(year, day)
        .or_else(|| NaiveDate::from_yo_opt(year, 365))
        .unwrap();
    let step = 10_u32.pow(random.u32(..=9));
    let nanosecond = random.u32(..1_000_000_000) / step * step;
    // Whole minutes and hours are what a writer may shorten.
    let [minute, second] = [random.u32(..60), random.u32(..60)].map(|part| part * random.u32(..2));
    let (minute, second) = if random.u8(..8) == 0 {
        (0, 0)
    } else {
        (minute, second)
    };
    let time = date.and_hms_nano_opt(random.u32(..24), minute, second, nanosecond);
    let time = time.unwrap();
    assert!(time.nanosecond() < 1_000_000_000);
    time
}

fn maybe_time(random: &mut Rng) -> Option<LocalTime> {
    (random.u8(..5) > 0).then(|| LocalTime(time(random)))
}

/// A state as Pekko may hold it: with any number of products, some of them twice.
pub(crate) fn pekko_state(random: &mut Rng) -> Result<State, AnyError> {
    let key = key(random)?;
    let mut products: Vec<String> = (0..random.usize(..6))
        .map(|_| {
            let length = random.usize(..12);
            text(random, length, |_| true)
        })
        .collect();
    if random.bool()
        && let Some(first) = products.first()
    {
        products.push(first.clone());
    }
    Ok(State {
        mall_id: key.mall_id().as_str().to_owned(),
        user_id: key.user_id().as_str().to_owned(),
        last_login: maybe_time(random),
        last_cart_used_time: maybe_time(random),
        recent_products: products,
        marketing_opt_in: random.bool(),
        last_event_time: Some(LocalTime(time(random))),
    })
}

/// A state of ours with its user. Every stored state follows an event, so the last event is there.
pub(crate) fn our_state(random: &mut Rng) -> Result<(UserKey, UserState), AnyError> {
    let state = without_surplus(&pekko_state(random)?);
    let key = UserKey::new(MallId::new(&state.mall_id)?, UserId::new(&state.user_id)?)?;
    Ok((key, state.to_user_state()))
}

/// The same with a product so long that the whole is more than 32 KiB of JSON.
pub(crate) fn our_large_state(random: &mut Rng) -> Result<(UserKey, UserState), AnyError> {
    let (key, state) = our_state(random)?;
    let piece = text(random, 40, |_| true);
    let long = piece.repeat(33_000 / piece.len() + 1);
    let mut products: Vec<ProductId> = state.recent_products.iter().cloned().collect();
    products.insert(0, ProductId::new(&long));
    let recent_products = products.into();
    Ok((
        key,
        UserState {
            recent_products,
            ..state
        },
    ))
}

/// What we keep of a state: of the products the first three distinct ones.
pub(crate) fn without_surplus(state: &State) -> State {
    let mut seen = HashSet::new();
    let products = state.recent_products.iter();
    State {
        recent_products: products
            .filter(|product| seen.insert(*product))
            .take(3)
            .cloned()
            .collect(),
        ..state.clone()
    }
}
