//! What a server's error code says about another attempt.

/// The prospects of another attempt, by the class of an SQLSTATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// The session is broken or ended. Another session may succeed. Classes 08 and 57.
    NextSession,
    /// Another attempt may succeed: a deadlock, a lock timeout, resources, the server's files, a catalogue that changed
    /// in the meantime ("tuple concurrently updated", "cache lookup failed"). Classes 40, 53 and 58, 55P03 and XX000.
    NextAttempt,
    /// Another attempt will fail again.
    Lasts,
}

impl Outlook {
    /// Returns what this code says.
    #[must_use]
    pub fn of(sqlstate: &str) -> Self {
        match (sqlstate.get(..2), sqlstate) {
            (Some("08" | "57"), _) => Self::NextSession,
            (Some("40" | "53" | "58"), _) | (_, "55P03" | "XX000") => Self::NextAttempt,
            _ => Self::Lasts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_passes_by_itself_is_worth_another_attempt() {
        for (outlook, codes) in [
            (Outlook::NextSession, &["57P01", "08006", "57014"][..]),
            (Outlook::NextAttempt, &["40001", "53200", "55P03", "58030", "XX000"]),
            (Outlook::Lasts, &["42601", "42P01", "22023", "XX001", ""]),
        ] {
            assert!(codes.iter().all(|code| Outlook::of(code) == outlook), "{outlook:?}");
        }
    }
}
