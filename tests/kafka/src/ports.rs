//! Ports that no client takes while the broker is down.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

/// The range of ports: below those that systems give to outgoing connections (from 32768 on Linux, from 49152
/// elsewhere). One of those could be taken by a client that tries to reach the broker while it is down.
const RANGE: Range<u16> = 10_000..32_768;

/// How many ports are tried: far more than other programs ever use.
const TRIES: u64 = 1_000;

/// Returns `N` different ports that were free a moment ago.
pub(crate) fn free<const N: usize>() -> io::Result<[u16; N]> {
    let random = RandomState::new();
    let span = u64::from(RANGE.end - RANGE.start);
    let mut held = Vec::with_capacity(N);
    for number in 0..TRIES {
        let offset = u16::try_from(random.hash_one(number) % span).map_err(io::Error::other)?;
        // The listeners are held until all ports are found, so that the ports differ.
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, RANGE.start + offset)) {
            held.push(listener);
        }
        if held.len() == N {
            let mut ports = [0; N];
            for (port, listener) in ports.iter_mut().zip(&held) {
                *port = listener.local_addr()?.port();
            }
            return Ok(ports);
        }
    }
    Err(io::Error::other("no free ports on 127.0.0.1"))
}
