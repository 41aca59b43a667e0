//! Goal: a state written by one side is the same state for the other, and comes back unchanged; the plain form is the
//! same to the byte, whoever wrote it.
//! Method: ten thousand random states for each form and each direction, from every plane of Unicode and every year that
//! chrono holds. Times go to Pekko as numbers, so that its text of a time is compared with ours and not with itself.

use std::io::Read;

use fastrand::Rng;
use user_state_domain::{UserKey, UserState};
use user_state_interop::{
    AnyError, Case, Form, Serialization, State, StateClass, TestResult, WirePayload, accepted,
};
use user_state_store::{
    Compression, Payload, PayloadFormat, PersistenceId, StateMapping, UserStateMapping,
};

use super::random::{our_large_state, our_state, pekko_state, seed, without_surplus};

const STATES: usize = 10_000;

/// A state of more than 32 KiB costs as much as a hundred others.
const LARGE_STATES: usize = 500;

/// States that go to Pekko together.
const TOGETHER: usize = 500;

const OURS: &str = "ten_thousand_states_of_ours_are_the_same_for_pekko_and_come_back";
const THEIRS: &str = "ten_thousand_states_of_pekkos_are_the_same_here_and_go_back";

type Generator = fn(&mut Rng) -> Result<(UserKey, UserState), AnyError>;

pub(crate) fn groups() -> Vec<(&'static str, Vec<Case>)> {
    let mut groups = vec![
        ("serialization::json", both_ways(Form::Json)),
        ("serialization::json_gzip", both_ways(Form::JsonGzip)),
        ("serialization::json_lz4", both_ways(Form::JsonLz4)),
        ("serialization::cbor", both_ways(Form::Cbor)),
        ("serialization::cbor_gzip", both_ways(Form::CborGzip)),
        ("serialization::cbor_lz4", both_ways(Form::CborLz4)),
    ];
    groups.push((
        "serialization::json",
        vec![Case::serialization(
            "states_above_32_kib_are_compressed_by_default_and_the_same_for_both",
            |given| ours(given, Form::Json, our_large_state, LARGE_STATES),
        )],
    ));
    groups
}

fn both_ways(form: Form) -> Vec<Case> {
    vec![
        Case::serialization(OURS, move |given| ours(given, form, our_state, STATES)),
        Case::serialization(THEIRS, move |given| theirs(given, form)),
    ]
}

/// Our mapping, set up as Pekko is for this form.
fn mapping(form: Form) -> UserStateMapping {
    let mapping = UserStateMapping::new();
    let all = |format, compression| {
        UserStateMapping::new()
            .format(format)
            .compression(compression)
            .compress_larger_than(0)
    };
    match form {
        Form::Json => mapping,
        Form::JsonGzip => all(PayloadFormat::Json, Compression::Gzip),
        Form::JsonLz4 => all(PayloadFormat::Json, Compression::Lz4),
        Form::Cbor => mapping.format(PayloadFormat::Cbor),
        Form::CborGzip => all(PayloadFormat::Cbor, Compression::Gzip),
        Form::CborLz4 => all(PayloadFormat::Cbor, Compression::Lz4),
    }
}

/// Here -> Pekko -> here.
async fn ours(given: Serialization, form: Form, generate: Generator, states: usize) -> TestResult {
    let (peer, mapping) = (given.peer(StateClass::One)?, mapping(form));
    let mut random = Rng::with_seed(seed());
    for batch in 0..states / TOGETHER {
        let users = (0..TOGETHER)
            .map(|_| generate(&mut random))
            .collect::<Result<Vec<_>, _>>()?;
        let written = users
            .iter()
            .map(|(key, state)| mapping.encode(&PersistenceId::from(key), state))
            .collect::<Result<Vec<Payload>, _>>()?;
        let wire: Vec<WirePayload> = written.iter().map(Into::into).collect();
        let read: Vec<State> = accepted(peer.deserialize(&wire).await?)?;
        let again = accepted(peer.serialize(form, &read).await?)?;
        assert_eq!((read.len(), again.len()), (TOGETHER, TOGETHER));
        for (index, (key, state)) in users.iter().enumerate() {
            let which = format!("state {index} of batch {batch}, seed {}", seed());
            assert_eq!(read[index], State::of(key, state), "{which}");
            let back = again[index].decode()?;
            assert_same(&back, &written[index], &which)?;
            let decoded: UserState = mapping.decode(&PersistenceId::from(key), &back)?;
            assert_eq!(&decoded, state, "{which}");
        }
    }
    Ok(())
}

/// Pekko -> here -> Pekko.
async fn theirs(given: Serialization, form: Form) -> TestResult {
    let (peer, mapping) = (given.peer(StateClass::One)?, mapping(form));
    let mut random = Rng::with_seed(seed() + 1);
    for batch in 0..STATES / TOGETHER {
        let states = (0..TOGETHER)
            .map(|_| pekko_state(&mut random))
            .collect::<Result<Vec<_>, _>>()?;
        let written = accepted(peer.serialize(form, &states).await?)?;
        assert_eq!(written.len(), TOGETHER);
        let mut ours = Vec::new();
        for (index, state) in states.iter().enumerate() {
            let which = format!("state {index} of batch {batch}, seed {}", seed() + 1);
            let id = PersistenceId::unique(&format!("{}-{}", state.mall_id, state.user_id))?;
            let payload = written[index].decode()?;
            let kept = without_surplus(state);
            let read: UserState = mapping.decode(&id, &payload)?;
            assert_eq!(read, kept.to_user_state(), "{which}");
            let back = mapping.encode(&id, &read)?;
            if kept == *state {
                assert_same(&back, &payload, &which)?;
            }
            ours.push(WirePayload::from(&back));
        }
        let back: Vec<State> = accepted(peer.deserialize(&ours).await?)?;
        let kept: Vec<State> = states.iter().map(without_surplus).collect();
        assert_eq!(back, kept, "batch {batch}, seed {}", seed() + 1);
    }
    Ok(())
}

/// The same serializer and manifest, and the same bytes once unpacked: compressors differ in what they make of the same
/// bytes.
fn assert_same(a: &Payload, b: &Payload, which: &str) -> TestResult {
    assert_eq!(a.serializer_id, b.serializer_id, "{which}");
    assert_eq!(a.manifest, b.manifest, "{which}");
    let (a_packing, a_plain) = unpacked(&a.bytes)?;
    let (b_packing, b_plain) = unpacked(&b.bytes)?;
    assert_eq!(a_packing, b_packing, "{which}");
    assert!(
        a_plain == b_plain,
        "{which}: other bytes\n  {}\n  {}",
        a_plain.escape_ascii(),
        b_plain.escape_ascii()
    );
    Ok(())
}

#[derive(Debug, PartialEq)]
enum Packing {
    Plain,
    Gzip,
    Lz4,
}

fn unpacked(bytes: &[u8]) -> Result<(Packing, Vec<u8>), AnyError> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain)?;
        return Ok((Packing::Gzip, plain));
    }
    if let Some(behind) = bytes.strip_prefix(&[0x87, 0xd9, 0x6d, 0xf6]) {
        let (length, block) = behind.split_first_chunk().ok_or("too short for LZ4")?;
        let length = usize::try_from(u32::from_be_bytes(*length))?;
        return Ok((Packing::Lz4, lz4_flex::block::decompress(block, length)?));
    }
    Ok((Packing::Plain, bytes.to_vec()))
}
