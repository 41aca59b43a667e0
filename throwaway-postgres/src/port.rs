//! A port for a server of our own.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use uuid::Uuid;

use crate::error::ProvisionError;

/// Below the ranges that Linux and macOS hand out to outgoing connections: none of those can occupy the port while
/// the server is down, nor can a client that calls it then be connected to itself.
const PORTS: Range<u16> = 10_240..32_768;
/// How many to look at; nearly always the first is free.
const LOOKS_MAX: u32 = 100;

/// A port of the loopback interface that nobody listens on just now.
pub(crate) fn free_port() -> Result<u16, ProvisionError> {
    let size = u128::from(PORTS.end - PORTS.start);
    (0..LOOKS_MAX)
        .filter_map(|_| u16::try_from(Uuid::new_v4().as_u128() % size).ok())
        .map(|offset| PORTS.start + offset)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or(ProvisionError::NoPort)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_is_none_that_outgoing_connections_use() -> Result<(), ProvisionError> {
        let port = free_port()?;
        assert!(PORTS.contains(&port));
        Ok(())
    }
}
