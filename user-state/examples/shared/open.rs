//! Opening a store that an example writes to.

use std::sync::Arc;

use user_state_store::{ConnectOptions, DurableStateStore, OpenError};

use crate::exit::Failure;

/// Opens the store at this URL; makes its tables where they are missing.
///
/// The tables are looked for first, since the right to make tables is not needed where they are.
pub(crate) async fn open(url: &str) -> Result<Arc<dyn DurableStateStore>, Failure> {
    let options = ConnectOptions::parse(url)?;
    match user_state_store::connect(&options).await {
        Err(OpenError::TableMissing { .. } | OpenError::DatabaseMissing) => {
            user_state_store::migrate(&options).await?;
            Ok(user_state_store::connect(&options).await?)
        }
        opened => Ok(opened?),
    }
}
