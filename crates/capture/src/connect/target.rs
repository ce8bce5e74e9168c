//! The requirements on a server; the names are those of libpq's `target_session_attrs`.

use super::connstring::invalid;
use crate::CaptureError;

/// What kind of server is required.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetServer {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
}

/// The kind of a server, as it reports it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) in_recovery: bool,
    /// Whether transactions are read-only by a setting of the server, not of the role or the database.
    pub(super) read_only: bool,
}

/// The query for [`Standing`]. It ignores settings of the role or the database, which walvec resets for its sessions.
pub(super) const STANDING: &str = "
    SELECT pg_is_in_recovery(),
           EXISTS (SELECT FROM pg_settings
                   WHERE name = 'default_transaction_read_only' AND setting = 'on'
                     AND source NOT IN ('user', 'database', 'database user', 'client', 'session'))";

impl TargetServer {
    /// Parses the setting into the requirements to try, in order. With several hosts, the default is a server that
    /// accepts writes, because walvec creates publications and slots, which a standby refuses.
    pub(super) fn parse(given: Option<&str>, hosts: usize) -> Result<&'static [Self], CaptureError> {
        Ok(match given {
            None if hosts > 1 => &[Self::ReadWrite],
            None | Some("any") => &[Self::Any],
            Some("read-write") => &[Self::ReadWrite],
            Some("read-only") => &[Self::ReadOnly],
            Some("primary") => &[Self::Primary],
            Some("standby") => &[Self::Standby],
            Some("prefer-standby") => &[Self::Standby, Self::Any],
            Some(_) => {
                return Err(invalid(
                    "target_session_attrs is none of any, read-write, read-only, primary, standby and prefer-standby",
                ));
            }
        })
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::ReadWrite => "read-write",
            Self::ReadOnly => "read-only",
            Self::Primary => "primary",
            Self::Standby => "standby",
        }
    }

    /// Describes what the server is instead, if it does not meet the requirement.
    pub(super) const fn contradiction(self, found: Standing) -> Option<&'static str> {
        match (self, found) {
            (Self::ReadWrite | Self::Primary, Standing { in_recovery: true, .. }) => {
                Some("it is a standby, in recovery")
            }
            (Self::ReadWrite, Standing { read_only: true, .. }) => Some("its default_transaction_read_only is on"),
            (Self::Standby, Standing { in_recovery: false, .. }) => Some("it is a primary, not in recovery"),
            (Self::ReadOnly, Standing { in_recovery: false, read_only: false }) => Some("it takes writes"),
            (Self::Any | Self::ReadWrite | Self::ReadOnly | Self::Primary | Self::Standby, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_taken_for_what_it_is() {
        let primary = Standing { in_recovery: false, read_only: false };
        let standby = Standing { in_recovery: true, read_only: false };
        let closed = Standing { in_recovery: false, read_only: true };
        for (target, [on_primary, on_standby, on_closed]) in [
            (TargetServer::Any, [true, true, true]),
            (TargetServer::ReadWrite, [true, false, false]),
            (TargetServer::ReadOnly, [false, true, true]),
            (TargetServer::Primary, [true, false, true]),
            (TargetServer::Standby, [false, true, false]),
        ] {
            let fits = |found| target.contradiction(found).is_none();
            assert_eq!([fits(primary), fits(standby), fits(closed)], [on_primary, on_standby, on_closed], "{target:?}");
        }
    }

    #[test]
    fn several_hosts_mean_the_primary_unless_something_else_is_said() {
        assert_eq!(TargetServer::parse(None, 1).unwrap(), [TargetServer::Any]);
        assert_eq!(TargetServer::parse(None, 2).unwrap(), [TargetServer::ReadWrite]);
        assert_eq!(TargetServer::parse(Some("any"), 2).unwrap(), [TargetServer::Any]);
        assert_eq!(TargetServer::parse(Some("prefer-standby"), 2).unwrap(), [TargetServer::Standby, TargetServer::Any]);
        assert!(TargetServer::parse(Some("writable"), 2).is_err());
    }
}
