//! How much memory this process holds, callers and load generator included.

use std::process::Command;

/// Resident memory in bytes, as Linux's `/proc` tells it, elsewhere as `ps` does; `None` where neither does.
pub(crate) fn resident_bytes() -> Option<u64> {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("VmRSS:"))?;
            kibibytes(line.trim().strip_suffix("kB")?)
        })
        .or_else(|| {
            let process = std::process::id().to_string();
            let output = Command::new("ps")
                .args(["-o", "rss=", "-p", &process])
                .output();
            kibibytes(std::str::from_utf8(&output.ok()?.stdout).ok()?)
        })
}

fn kibibytes(text: &str) -> Option<u64> {
    text.trim().parse::<u64>().ok()?.checked_mul(1_024)
}
