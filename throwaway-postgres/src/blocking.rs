//! Blocking work, called from async code.

use tokio::task;

use crate::error::ProvisionError;

/// Runs blocking work to its end on a thread where blocking is allowed, whether or not the caller still waits.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ProvisionError> + Send + 'static,
) -> Result<T, ProvisionError> {
    match task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ProvisionError::ShuttingDown),
        },
    }
}
