//! Goal: each side reads what the other wrote, with every column right, and goes on from there, again and again.
//! Method: a Pekko actor and our runtime take turns on users that either side begins: newly recovered in every turn, or
//! live all the time; under the plain id and under an entity type; in every serialized form. After each turn the row itself
//! and what both stores read are looked at too, beside a model that is told every command once.

use chrono::{DateTime, TimeDelta, Utc};
use cqrs_es::Aggregate;
use user_state_domain::{ProductId, UserCommand, UserEvent, UserKey, UserState};
use user_state_interop::{AnyError, Case, Live, NodeOptions, PekkoNode, StartOptions, TestResult};
use user_state_runtime::Runtime;
use user_state_store::{
    Compression, DurableStateStore, PayloadFormat, PersistenceId, SerializerId, StateMapping,
    StoredValue, Tags, UserStateMapping,
};

use crate::live::user::{
    NOTHING, ask, assert_holds, assert_restarted, only_row, restarting, second,
};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::live(
            "twenty_turns_of_newly_recovered_sides_under_the_plain_id_lose_nothing",
            |live| recovered_turns(live, None),
        ),
        Case::live(
            "twenty_turns_of_newly_recovered_sides_under_an_entity_type_lose_nothing",
            |live| recovered_turns(live, Some("User")),
        ),
        Case::live(
            "of_two_live_sides_in_twenty_turns_each_meets_the_other_once_a_turn_and_goes_on",
            live_turns,
        ),
        Case::live(
            "every_serialized_form_of_either_side_is_continued_by_the_other_in_its_own",
            form_turns,
        ),
    ]
}

/// How many turns both sides take together.
const TURNS: i64 = 20;

/// The command of a turn; its time has digits down to the nanosecond.
fn turn(number: i64) -> UserCommand {
    let at = second(number) + TimeDelta::nanoseconds(number * 1_020_304);
    match number % 4 {
        0 => UserCommand::Login { at },
        1 => UserCommand::UseCart { at },
        2 => UserCommand::ViewProduct {
            product_id: ProductId::new(&format!("상품 {number}")),
            at,
        },
        _ => UserCommand::SetMarketingOptIn {
            opt_in: number % 8 == 3,
            at,
        },
    }
}

/// What a user should be, told every command once.
struct Model {
    key: UserKey,
    id: PersistenceId,
    state: UserState,
    revision: u64,
    written_at: DateTime<Utc>,
}

impl Model {
    fn new(key: UserKey, id: PersistenceId) -> Self {
        Self {
            key,
            id,
            state: UserState::default(),
            revision: NOTHING,
            written_at: DateTime::UNIX_EPOCH,
        }
    }

    fn take(&mut self, command: &UserCommand) -> TestResult {
        self.state.apply(UserEvent::try_from(command.clone())?);
        self.revision += 1;
        Ok(())
    }

    /// The row, and what both stores read of it, are this user. Answers the payload, for those who look closer.
    async fn check(
        &mut self,
        live: &Live,
        store: &dyn DurableStateStore,
        pekko: &PekkoNode,
        serializer: SerializerId,
    ) -> Result<Vec<u8>, AnyError> {
        let row = only_row(live, self.id.as_str()).await?;
        assert_eq!(row.persistence_id, self.id.as_str());
        assert_eq!(row.entity_type, self.id.entity_type());
        assert_eq!(row.slice, i32::from(self.id.slice().get()));
        assert_eq!(row.revision, i64::try_from(self.revision)?);
        assert_eq!(row.state_ser_id, serializer.0);
        let class = "com.example.persistdurable.model.UserState";
        assert_eq!(row.state_ser_manifest.as_deref(), Some(class));
        assert_eq!(row.tags, Some(vec!["user-state".to_owned()]));
        assert!(row.db_timestamp > self.written_at, "time goes on");
        self.written_at = row.db_timestamp;

        let loaded = pekko.load(self.id.as_str()).await?;
        assert_holds(&loaded, self.revision, &self.key, &self.state);

        let stored = store.load_one(&self.id).await?.ok_or("no row")?;
        assert_eq!(stored.persistence_id, self.id);
        assert_eq!(&*stored.entity_type, self.id.entity_type());
        assert_eq!(stored.slice, self.id.slice());
        assert_eq!(stored.revision.get(), row.revision);
        assert_eq!(stored.db_timestamp, row.db_timestamp);
        assert_eq!(stored.tags, Tags::one("user-state"));
        let StoredValue::State(payload) = stored.value else {
            return Err("a state should be stored".into());
        };
        let read = UserStateMapping::new().decode(&self.id, &payload)?;
        assert_eq!(read, self.state);
        Ok(row.state_payload)
    }
}

async fn recovered_turns(live: Live, entity_type: Option<&'static str>) -> TestResult {
    let pekko = live.pekko().await?;
    let runtime = live.runtime().await?;
    let store = live.store().await?;
    for (entity_id, pekkos_turns) in [("mall-pekko", 1), ("mall-ours", 0)] {
        let key: UserKey = entity_id.parse()?;
        let id = match entity_type {
            Some(entity_type) => PersistenceId::of(entity_type, entity_id)?,
            None => PersistenceId::from(&key),
        };
        let user = runtime.entity(id.clone());
        let mut model = Model::new(key, id);
        for number in 1..=TURNS {
            let command = turn(number);
            if number % 2 == pekkos_turns {
                let options = StartOptions {
                    type_hint: entity_type.map(str::to_owned),
                    ..StartOptions::default()
                };
                let actor = pekko.start_with(entity_id, options).await?;
                assert_eq!(actor.persistence_id(), model.id.as_str());
                assert_holds(actor.recovered(), model.revision, &model.key, &model.state);
                model.take(&command)?;
                let written = ask(&actor, &command).await?;
                assert_holds(&written, model.revision, &model.key, &model.state);
                actor.stop().await?;
            } else {
                let read = user.state().await?;
                assert_eq!(read.revision.get(), i64::try_from(model.revision)?);
                assert_eq!(read.state, model.state);
                model.take(&command)?;
                assert_eq!(user.execute(command).await?.get(), number);
                user.passivate().await?;
            }
            model
                .check(
                    &live,
                    store.states().as_ref(),
                    &pekko,
                    SerializerId::JACKSON_JSON,
                )
                .await?;
        }
    }
    assert_eq!(runtime.stats().conflicts, 0);
    Ok(())
}

/// Either side holds what it wrote last, so every one of its writes meets the other's. Pekko tells its caller and reads
/// again; our runtime reads again and handles the command once more.
async fn live_turns(live: Live) -> TestResult {
    let pekko = live.pekko().await?;
    let runtime = live.runtime().await?;
    let store = live.store().await?;
    let key: UserKey = "mall-user".parse()?;
    let user = runtime.user(&key);
    let actor = pekko.start_with("mall-user", restarting()).await?;
    assert_eq!(user.state().await?.revision.get(), 0);
    let mut model = Model::new(key, user.persistence_id().clone());
    for number in 1..=TURNS {
        let command = turn(number);
        if number % 2 == 1 {
            if number > 1 {
                assert_restarted(ask(&actor, &command).await, model.revision);
            }
            assert_holds(
                &actor.get().await?,
                model.revision,
                &model.key,
                &model.state,
            );
            model.take(&command)?;
            let written = ask(&actor, &command).await?;
            assert_holds(&written, model.revision, &model.key, &model.state);
        } else {
            model.take(&command)?;
            assert_eq!(user.execute(command).await?.get(), number);
            assert_eq!(user.state().await?.state, model.state);
        }
        model
            .check(
                &live,
                store.states().as_ref(),
                &pekko,
                SerializerId::JACKSON_JSON,
            )
            .await?;
    }
    assert_eq!(runtime.stats().conflicts, u64::try_from(TURNS / 2)?);
    Ok(())
}

/// How both sides are told to write a state.
struct Form {
    format: PayloadFormat,
    compression: Compression,
    serializer: SerializerId,
    /// What a payload of this form begins with.
    begins: &'static [u8],
    binding: &'static str,
    algorithm: &'static str,
}

impl Form {
    const fn json(
        compression: Compression,
        algorithm: &'static str,
        begins: &'static [u8],
    ) -> Self {
        Self {
            format: PayloadFormat::Json,
            compression,
            serializer: SerializerId::JACKSON_JSON,
            begins,
            binding: "jackson-json",
            algorithm,
        }
    }

    const fn cbor(
        compression: Compression,
        algorithm: &'static str,
        begins: &'static [u8],
    ) -> Self {
        Self {
            format: PayloadFormat::Cbor,
            compression,
            serializer: SerializerId::JACKSON_CBOR,
            begins,
            binding: "jackson-cbor",
            algorithm,
        }
    }

    /// Every payload is compressed, however short.
    fn pekko_options(&self) -> NodeOptions {
        let (binding, algorithm) = (self.binding, self.algorithm);
        let config = format!(
            r#"
            pekko.actor.serialization-bindings {{
              "com.example.persistdurable.model.UserState" = {binding}
            }}
            pekko.serialization.jackson.{binding}.compression {{
              algorithm = {algorithm}
              compress-larger-than = 0 KiB
            }}"#
        );
        NodeOptions { config }
    }

    fn mapping(&self) -> UserStateMapping {
        UserStateMapping::new()
            .format(self.format)
            .compression(self.compression)
            .compress_larger_than(0)
    }
}

const GZIP: &[u8] = &[0x1f, 0x8b];
const LZ4: &[u8] = &[0x87, 0xd9, 0x6d, 0xf6];

/// A map in CBOR whose end tells its length, as Jackson writes objects.
const CBOR_MAP: &[u8] = &[0xbf];

const FORMS: [Form; 6] = [
    Form::json(Compression::Off, "off", b"{"),
    Form::cbor(Compression::Off, "off", CBOR_MAP),
    Form::json(Compression::Gzip, "gzip", GZIP),
    Form::cbor(Compression::Gzip, "gzip", GZIP),
    Form::json(Compression::Lz4, "lz4", LZ4),
    Form::cbor(Compression::Lz4, "lz4", LZ4),
];

/// One user goes through all forms: Pekko writes it in one, we go on in another, and no two turns are alike.
async fn form_turns(live: Live) -> TestResult {
    let store = live.store().await?;
    let key: UserKey = "mall-user".parse()?;
    let id = PersistenceId::from(&key);
    let mut model = Model::new(key, id.clone());
    let mut number = 0;
    for (index, theirs) in FORMS.iter().enumerate() {
        let pekko = live.pekko_with(&theirs.pekko_options()).await?;
        for distance in [1, 2] {
            let ours = &FORMS[(index + distance) % FORMS.len()];
            let runtime = Runtime::for_users_as(live.store().await?, ours.mapping()).start()?;

            number += 1;
            let actor = pekko.start("mall-user").await?;
            assert_holds(actor.recovered(), model.revision, &model.key, &model.state);
            model.take(&turn(number))?;
            ask(&actor, &turn(number)).await?;
            actor.stop().await?;
            let payload = model
                .check(&live, store.states().as_ref(), &pekko, theirs.serializer)
                .await?;
            assert!(payload.starts_with(theirs.begins), "{payload:02x?}");

            number += 1;
            let user = runtime.entity(id.clone());
            assert_eq!(user.state().await?.state, model.state);
            model.take(&turn(number))?;
            assert_eq!(user.execute(turn(number)).await?.get(), number);
            let payload = model
                .check(&live, store.states().as_ref(), &pekko, ours.serializer)
                .await?;
            assert!(payload.starts_with(ours.begins), "{payload:02x?}");
            runtime.shutdown().await?;
        }
        pekko.close().await?;
    }
    Ok(())
}
