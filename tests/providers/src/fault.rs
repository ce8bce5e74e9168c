//! Faults of the test provider.

use std::time::Duration;

/// A fault that replaces or changes the answer to one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers 429, with this `Retry-After`.
    TooManyRequests(String),
    /// Answers with this status, and an error in the protocol's form.
    Status(u16),
    /// Leaves out one vector.
    MissingVector,
    /// Returns the vectors in another order; with OpenAI's protocol their indexes show it.
    Shuffled,
    /// Returns vectors of this dimension.
    Dimension(usize),
    /// Returns a first vector with a NaN in it.
    NotANumber,
    /// Returns vectors of zeros.
    Zeros,
    /// Returns vectors as base64, even if the request does not ask for that. With OpenAI's protocol only.
    Base64,
    /// Answers with an HTML page instead of vectors.
    Page,
    /// Redirects to another path of the same server.
    Redirect,
    /// Sends a body that does not end.
    Endless,
    /// Begins an answer and then breaks off.
    BreakOff,
    /// Sends the usual answer, but after this time.
    Slow(Duration),
}
