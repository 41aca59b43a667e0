//! One pool serves the states of an aggregate and the views that cqrs-es's queries keep of it.
//!
//! Method: `CqrsFramework<UserState>` on PostgreSQL with a `GenericQuery`; the view and the state are then compared.

#![cfg(all(feature = "views", feature = "users"))]

mod support;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use chrono::DateTime;
use cqrs_es::persist::GenericQuery;
use cqrs_es::{CqrsFramework, EventEnvelope, EventStore as _, View};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use support::{Database, Outcome};
use user_state_domain::{ProductId, UserCommand, UserEvent, UserState};
use user_state_store::{
    DurableStateEventStore, InvalidTableName, PostgresStore, StoreSettings, UserStateMapping,
};

const TABLE: &str = "viewed_products";

/// How often a user viewed each product, and the revision this is known up to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ViewedProducts {
    counts: BTreeMap<String, u32>,
    revision: usize,
}

impl View<UserState> for ViewedProducts {
    fn update(&mut self, event: &EventEnvelope<UserState>) {
        if let UserEvent::ProductViewed { product_id, .. } = &event.payload {
            *self.counts.entry(product_id.to_string()).or_default() += 1;
        }
        self.revision = event.sequence;
    }
}

async fn open(database: &Database) -> Result<(PgPool, Arc<PostgresStore>), Box<dyn Error>> {
    let create = format!(
        "CREATE TABLE {TABLE} (view_id text PRIMARY KEY, version bigint NOT NULL, payload json NOT NULL)"
    );
    database.execute(&create).await?;
    let pool = PgPool::connect(database.url()).await?;
    let store = PostgresStore::from_pool(pool.clone(), StoreSettings::default()).await?;
    Ok((pool, Arc::new(store)))
}

#[tokio::test]
async fn a_query_fills_its_view_on_the_pool_of_the_store() -> Outcome {
    let database = Database::migrated().await?;
    let (pool, store) = open(&database).await?;
    let views = Arc::new(store.view_repository::<ViewedProducts, UserState>(TABLE)?);
    let event_store: Arc<PostgresStore> = Arc::clone(&store);
    let event_store =
        DurableStateEventStore::<UserState>::new(event_store, UserStateMapping::new());
    let mut query = GenericQuery::new(Arc::clone(&views));
    query.use_error_handler(Box::new(|error| {
        panic!("the view was not updated: {error}")
    }));
    let framework = CqrsFramework::new(event_store.clone(), vec![Box::new(query)], ());

    let at = DateTime::UNIX_EPOCH;
    framework
        .execute("mall-user", UserCommand::Login { at })
        .await?;
    for product in ["apple", "pear", "apple"] {
        let product_id = ProductId::new(product);
        let command = UserCommand::ViewProduct { product_id, at };
        framework.execute("mall-user", command).await?;
    }

    let view = GenericQuery::new(views)
        .load("mall-user")
        .await
        .ok_or("no view")?;
    let counts = [("apple".to_owned(), 2), ("pear".to_owned(), 1)];
    assert_eq!(view.counts, BTreeMap::from(counts));
    let context = event_store.load_aggregate("mall-user").await?;
    assert_eq!(view.revision, usize::try_from(context.revision().get())?);
    // Both are in one database, and what the caller's pool reads is what the repository wrote.
    let stored: (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM durable_state), (SELECT version FROM viewed_products)",
    )
    .fetch_one(&pool)
    .await?;
    assert_eq!(stored, (1, 4));
    Ok(())
}

#[tokio::test]
async fn a_name_that_could_carry_sql_gives_no_repository() -> Outcome {
    let database = Database::migrated().await?;
    let (_pool, store) = open(&database).await?;
    let refused = store.view_repository::<ViewedProducts, UserState>("v; DROP TABLE durable_state");
    assert_eq!(refused.err(), Some(InvalidTableName));
    Ok(())
}
