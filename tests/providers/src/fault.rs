//! Ways to misbehave.

use std::time::Duration;

/// What happens to one request instead of, or together with, its answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// 429, with this `Retry-After`.
    TooManyRequests(String),
    /// A status, with an error in the protocol's form.
    Status(u16),
    /// One vector is missing.
    MissingVector,
    /// The vectors come in another order; with OpenAI's protocol their indexes say so.
    Shuffled,
    /// Vectors of this dimension.
    Dimension(usize),
    /// The first vector has a number that is none.
    NotANumber,
    /// All vectors are zero.
    Zeros,
    /// Vectors as base64, whatever was asked for. With OpenAI's protocol only.
    Base64,
    /// A page instead of vectors.
    Page,
    /// To the same server under another path.
    Redirect,
    /// A body that does not end.
    Endless,
    /// An answer that begins and then breaks off.
    BreakOff,
    /// The answer, but later.
    Slow(Duration),
}
