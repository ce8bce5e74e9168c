//! The resources that a server can exhaust (SQLSTATE class 53), and rows that are too large to send.
//!
//! <https://www.postgresql.org/docs/current/errcodes-appendix.html>

use std::fmt;

/// A resource of which a server has a limited amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `max_replication_slots`.
    ReplicationSlots,
    /// `max_wal_senders`.
    WalSenders,
    /// `max_connections`, or the limit of a role or a database.
    Connections,
    /// Memory.
    Memory,
    /// Disk space.
    Disk,
}

impl Resource {
    /// Returns the resource that an error is about; `None` if it is about none of these. The server's message may be in
    /// any language, but the names of settings are always the same.
    pub(crate) fn of(sqlstate: &str, words: &str) -> Option<Self> {
        match sqlstate {
            "53100" => Some(Self::Disk),
            "53200" => Some(Self::Memory),
            "53300" if words.contains("max_wal_senders") => Some(Self::WalSenders),
            "53300" => Some(Self::Connections),
            "53400" if !words.contains("temp_file_limit") => Some(Self::ReplicationSlots),
            _ => None,
        }
    }

    /// Returns what to do about it.
    pub(crate) const fn remedy(self) -> &'static str {
        match self {
            Self::ReplicationSlots => {
                "drop a slot that nothing reads (SELECT slot_name, active FROM pg_replication_slots;), or raise \
                 max_replication_slots and restart PostgreSQL"
            }
            Self::WalSenders => {
                "end a replication connection that nothing needs (SELECT pid, application_name, state FROM \
                 pg_stat_replication;), or raise max_wal_senders and restart PostgreSQL"
            }
            Self::Connections => {
                "close connections that nothing needs (SELECT pid, usename, application_name FROM pg_stat_activity;), or raise \
                 max_connections and restart PostgreSQL; a role or a database may have a CONNECTION LIMIT of its own"
            }
            Self::Memory => {
                "find out what uses the memory of the PostgreSQL server; walvec then continues automatically"
            }
            Self::Disk => "make room on the disk of PostgreSQL; walvec then continues automatically",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReplicationSlots => "replication slot",
            Self::WalSenders => "replication connection",
            Self::Connections => "connection",
            Self::Memory => "memory",
            Self::Disk => "disk space",
        })
    }
}

/// Returns whether the server could not fit a row into a message, which is limited to 1 GB: the text of one value is
/// longer, as for a `bytea` of 512 MB, or all texts together are.
///
/// The errors come from the server's `palloc` and `enlargeStringInfo`. Exhausted memory has class 53 instead.
pub(crate) fn is_too_large(sqlstate: &str, words: &str) -> bool {
    sqlstate == "54000" || (sqlstate == "XX000" && words.contains("alloc request size"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_server_names_the_setting_that_is_too_low() {
        for (sqlstate, words, resource, setting) in [
            ("53400", "all replication slots are in use", Resource::ReplicationSlots, "max_replication_slots"),
            (
                "53300",
                "number of requested standby connections exceeds \"max_wal_senders\" (currently 1)",
                Resource::WalSenders,
                "max_wal_senders",
            ),
            ("53300", "sorry, too many clients already", Resource::Connections, "max_connections"),
            ("53300", "too many connections for role \"walvec\"", Resource::Connections, "CONNECTION LIMIT"),
        ] {
            assert_eq!(Resource::of(sqlstate, words), Some(resource), "{words}");
            assert!(resource.remedy().contains(setting), "{words}");
        }
        assert_eq!(Resource::of("53400", "temporary file size exceeds \"temp_file_limit\" (1kB)"), None);
        assert_eq!(Resource::of("57014", "canceling statement"), None);
    }

    #[test]
    fn a_row_that_fits_into_no_message_is_told_from_a_server_without_memory() {
        assert!(is_too_large("XX000", "invalid memory alloc request size 1258291203"));
        assert!(is_too_large(
            "54000",
            "out of memory (Cannot enlarge string buffer containing 9 bytes by 1073741824 more bytes.)"
        ));
        assert!(!is_too_large("53200", "out of memory"));
        assert!(!is_too_large("XX000", "cache lookup failed for relation 7"));
    }
}
