//! Opening a store that an example writes to.

use user_state_store::{ConnectOptions, OpenError, Store};

use crate::exit::Failure;

/// Opens the store at this URL; makes its tables where they are missing.
///
/// The tables are looked for first, since the right to make tables is not needed where they are.
pub(crate) async fn open(url: &str) -> Result<Store, Failure> {
    let options = ConnectOptions::parse(url)?;
    match user_state_store::connect(&options).await {
        Err(OpenError::TableMissing { .. } | OpenError::DatabaseMissing) => {
            user_state_store::migrate(&options).await?;
            Ok(user_state_store::connect(&options).await?)
        }
        opened => Ok(opened?),
    }
}
