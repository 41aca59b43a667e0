//! The benchmark's program; everything is in the library beside it.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    user_state_bench::main().await
}
