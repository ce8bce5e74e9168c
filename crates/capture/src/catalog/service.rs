//! Managed PostgreSQL services, as far as they can be recognised.
//!
//! Their users are never superusers. Each service has its own ways to enable replication and the settings that it needs.

/// A managed service, known by a role that only its servers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Amazon RDS and Aurora.
    Rds,
    /// Google Cloud SQL.
    CloudSql,
    /// Google AlloyDB.
    AlloyDb,
    /// Azure Database for PostgreSQL.
    Azure,
    /// Supabase.
    Supabase,
    /// Neon.
    Neon,
}

/// The role by which each service is known. AlloyDB comes first because it may have Cloud SQL's roles too.
const ROLES: [(&str, Service); 6] = [
    ("rds_superuser", Service::Rds),
    ("alloydbsuperuser", Service::AlloyDb),
    ("cloudsqlsuperuser", Service::CloudSql),
    ("azure_pg_admin", Service::Azure),
    ("supabase_admin", Service::Supabase),
    ("neon_superuser", Service::Neon),
];

impl Service {
    /// Returns the service whose servers have one of these roles.
    pub(super) fn of(roles: &[String]) -> Option<Self> {
        ROLES.iter().find(|(role, _)| roles.iter().any(|found| found == role)).map(|(_, service)| *service)
    }

    /// Returns the roles by which services are known.
    pub(super) fn roles() -> Vec<&'static str> {
        ROLES.iter().map(|(role, _)| *role).collect()
    }

    /// Returns the role whose rights come closest to a superuser's.
    pub(crate) const fn administrator(self) -> &'static str {
        match self {
            Self::Rds => "a member of rds_superuser",
            Self::CloudSql => "a member of cloudsqlsuperuser",
            Self::AlloyDb => "a member of alloydbsuperuser",
            Self::Azure => "a member of azure_pg_admin",
            Self::Supabase => "the role postgres",
            Self::Neon => "a member of neon_superuser",
        }
    }

    /// Describes how to set `wal_level` to `logical`.
    pub(crate) const fn logical_wal(self) -> &'static str {
        match self {
            Self::Rds => {
                "set rds.logical_replication = 1 in the parameter group (Aurora: of the cluster), then reboot the instance"
            }
            Self::CloudSql => "set the flag cloudsql.logical_decoding = on; the instance restarts",
            Self::AlloyDb => "set the flag alloydb.logical_decoding = on; the instance restarts",
            Self::Azure => "set the server parameter wal_level to LOGICAL, then restart the server",
            Self::Supabase => "restart the project in its settings: wal_level is logical there unless it was changed",
            Self::Neon => {
                "project settings, Logical Replication, Enable; this restarts all computes and cannot be undone"
            }
        }
    }

    /// Describes where to change a setting that cannot be changed with SQL.
    pub(crate) const fn settings(self) -> &'static str {
        match self {
            Self::Rds => "in the parameter group, then reboot the instance",
            Self::CloudSql | Self::AlloyDb => "as a flag of the instance",
            Self::Azure => "as a server parameter, then restart the server",
            Self::Supabase => "by `supabase postgres-config update`",
            Self::Neon => "by asking Neon's support",
        }
    }

    /// Returns the statement that lets a role replicate, or a comment if no statement gives that right. `role` is quoted.
    pub(crate) fn replication(self, role: &str, version: u32) -> String {
        match self {
            Self::Rds => format!("GRANT rds_replication TO {role};"),
            Self::Supabase if version < 170_000 => {
                format!(
                    "-- before PostgreSQL 17 only the role postgres may replicate: connect as postgres instead of {role}"
                )
            }
            Self::Neon if version < 160_000 => {
                format!(
                    "-- create the role in Neon's console, and connect as that: {role}, made by SQL, cannot replicate"
                )
            }
            Self::CloudSql | Self::AlloyDb | Self::Azure | Self::Supabase | Self::Neon => {
                format!("ALTER ROLE {role} REPLICATION;")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_known_by_its_roles() {
        let of = |roles: &[&str]| Service::of(&roles.iter().map(|&role| role.to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["postgres", "app"]), None);
        assert_eq!(of(&["rds_superuser"]), Some(Service::Rds));
        assert_eq!(of(&["cloudsqlsuperuser", "alloydbsuperuser"]), Some(Service::AlloyDb));
    }

    #[test]
    fn where_no_statement_lets_a_role_replicate_a_comment_says_what_does() {
        assert_eq!(Service::Rds.replication("\"w\"", 150_000), "GRANT rds_replication TO \"w\";");
        assert_eq!(Service::Supabase.replication("\"w\"", 170_004), "ALTER ROLE \"w\" REPLICATION;");
        for (service, version) in [(Service::Supabase, 150_008), (Service::Neon, 150_008)] {
            assert!(service.replication("\"w\"", version).starts_with("-- "), "{service:?}");
        }
    }
}
