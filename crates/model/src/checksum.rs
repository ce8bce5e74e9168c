//! A checksum that shows whether the bytes read are the bytes written.

/// Returns the first 64 bits of the BLAKE3 hash of `parts`, concatenated in order.
#[must_use]
pub fn checksum(parts: &[&[u8]]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}
