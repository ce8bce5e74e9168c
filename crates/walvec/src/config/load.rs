//! The sources of a configuration, in order of precedence: flag, environment, file, default.
//!
//! Two kinds of variables have different precedence. `WALVEC_LISTEN`, `WALVEC_TOKEN` and others of that name are made for
//! walvec and override the file. `DATABASE_URL` and `PG*` are made for every program: as in libpq they only fill in what
//! the file leaves out, so that a variable that was set for another program never points walvec at another database.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

use super::environment::Environment;
use super::error::ConfigError;
use super::features::{self, Features};
use super::rules::server::check_exposure;
use super::schema::stage::{INSTANCE, Stage, instance};
use super::yaml::document::YamlDocument;
use super::yaml::interpolate::interpolate;
use super::yaml::reader;
use super::{Config, conninfo, names, rules, tutorial};

/// The file that is read when the user names none.
pub(crate) const DEFAULT_FILE: &str = "walvec.yaml";

/// Values given as flags, and the keys that a command does not need.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    /// Replaces `server.listen`.
    pub(crate) listen: Option<SocketAddr>,
    /// Replaces `WALVEC_STAGE`; the default is `all`.
    pub(crate) stage: Option<Stage>,
    /// Replaces `WALVEC_INSTANCE`; the default is `1`.
    pub(crate) instance: Option<String>,
    /// Keys that are left out if the variables that they refer to are not set.
    pub(crate) not_needed: &'static [&'static str],
}

impl Overrides {
    /// Returns the overrides of a command that asks a running walvec. It shows the key of the data directory instead of a
    /// token, and connects to nothing else; the variables may be set for that walvec only.
    pub(crate) fn to_ask() -> Self {
        let not_needed =
            &["server.token", "source.url", "embedding.api_key", "sink.qdrant.api_key", "broker.kafka.sasl.password"];
        Self { not_needed, ..Self::default() }
    }

    /// Returns the overrides of a command that embeds a query and searches the points itself.
    pub(crate) fn to_search() -> Self {
        Self { not_needed: &["server.token", "source.url", "broker.kafka.sasl.password"], ..Self::default() }
    }

    /// Returns the overrides of a command that reads topics itself.
    pub(crate) fn to_read_topics() -> Self {
        let not_needed = &["server.token", "source.url", "embedding.api_key", "sink.qdrant.api_key"];
        Self { not_needed, ..Self::default() }
    }

    /// Returns the overrides of a command that asks a running walvec and reads PostgreSQL itself.
    pub(crate) fn to_compare() -> Self {
        Self { not_needed: &["server.token"], ..Self::default() }
    }
}

impl Config {
    /// Loads the configuration from `path`; without one from ./walvec.yaml; without that file from the variables of the
    /// tutorial stack (`PG_HOST`, `PG_TABLE`, ...).
    pub(crate) fn load(
        path: Option<&Path>,
        environment: &Environment,
        overrides: Overrides,
    ) -> Result<Self, ConfigError> {
        let file = path.map_or_else(|| PathBuf::from(DEFAULT_FILE), Path::to_owned);
        match std::fs::read_to_string(&file) {
            Ok(text) => {
                let name = file.display().to_string();
                from_named_text(&name, &text, environment, overrides, Features::of_this_program())
            }
            Err(error) if error.kind() == ErrorKind::NotFound && path.is_none() => {
                let stage = stage(environment, &overrides)?;
                let config = tutorial::configuration(environment, stage)?.completed(None, environment, overrides)?;
                features::check(&config, None, Features::of_this_program())?;
                Ok(config)
            }
            Err(source) => Err(ConfigError::Unreadable { path: file, source }),
        }
    }

    /// Returns the database that the user gave to a command, or that the environment names.
    pub(crate) fn source_url(given: Option<&str>, environment: &Environment) -> Result<SecretString, ConfigError> {
        let given = given.map(SecretString::from).unwrap_or_default();
        database_url(&given, None, environment)?.ok_or_else(|| {
            let reason = "missing; give --url, or set DATABASE_URL, or PGHOST, PGUSER, PGPASSWORD and PGDATABASE";
            ConfigError::outside_of_file("source.url", reason)
        })
    }

    /// Loads the configuration from the text of a file.
    pub(crate) fn from_text(text: &str, environment: &Environment, overrides: Overrides) -> Result<Self, ConfigError> {
        from_named_text(DEFAULT_FILE, text, environment, overrides, Features::of_this_program())
    }

    /// Adds the values of environment and flags, then checks the whole.
    fn completed(
        mut self,
        document: Option<&YamlDocument>,
        environment: &Environment,
        overrides: Overrides,
    ) -> Result<Self, ConfigError> {
        self.stage = stage(environment, &overrides)?;
        self.instance = instance_of(environment, overrides.instance.as_deref())?;
        self.source.url = match database_url(&self.source.url, document, environment)? {
            None if self.stage.needs_source() && !overrides.not_needed.contains(&"source.url") => {
                let reason = "missing; give it here, or set DATABASE_URL, or PGHOST, PGUSER, PGPASSWORD and PGDATABASE";
                return Err(rules::error(document, "source.url", reason));
            }
            url => url.unwrap_or_default(),
        };
        if let Some(listen) = environment.non_empty("WALVEC_LISTEN") {
            let parsed = names::listen_address(listen);
            self.server.listen = parsed.map_err(|reason| ConfigError::outside_of_file("WALVEC_LISTEN", reason))?;
        }
        self.server.listen = overrides.listen.unwrap_or(self.server.listen);
        if let Some(token) = environment.non_empty("WALVEC_TOKEN") {
            self.server.token = Some(token.into());
        }
        self.models = environment.models_root_of(&self.embedding.model)?;
        rules::check(&self, document, overrides.not_needed)?;
        if !overrides.not_needed.contains(&"server.token") {
            check_exposure(&self, document)?;
        }
        Ok(self)
    }
}

/// Loads the configuration from the text of the file called `name`, for a program with these `features`.
pub(super) fn from_named_text(
    name: &str,
    text: &str,
    environment: &Environment,
    overrides: Overrides,
    features: Features,
) -> Result<Config, ConfigError> {
    let mut document = YamlDocument::parse(name, text)?;
    for key in overrides.not_needed {
        document.leave_out(key, |text| interpolate(text, environment).map_or(true, |value| value.is_empty()));
    }
    let config = reader::read(&document, environment)?.completed(Some(&document), environment, overrides)?;
    features::check(&config, Some(&document), features)?;
    Ok(config)
}

/// Determines the stage of this process.
fn stage(environment: &Environment, overrides: &Overrides) -> Result<Stage, ConfigError> {
    let variable = || environment.non_empty("WALVEC_STAGE").map(Stage::parse).transpose();
    match overrides.stage {
        Some(stage) => Ok(stage),
        None => variable()
            .map(Option::unwrap_or_default)
            .map_err(|reason| ConfigError::outside_of_file("WALVEC_STAGE", reason)),
    }
}

/// Determines the name of this process.
fn instance_of(environment: &Environment, flag: Option<&str>) -> Result<String, ConfigError> {
    let (key, name) = match flag {
        Some(name) => ("--instance", name),
        None => ("WALVEC_INSTANCE", environment.non_empty("WALVEC_INSTANCE").unwrap_or(INSTANCE)),
    };
    instance(name).map_err(|reason| ConfigError::outside_of_file(key, reason))
}

/// Returns the address of PostgreSQL, if the file or a variable has it.
fn database_url(
    url: &SecretString,
    document: Option<&YamlDocument>,
    environment: &Environment,
) -> Result<Option<SecretString>, ConfigError> {
    let given = !url.expose_secret().is_empty();
    let (key, url) = match environment.non_empty("DATABASE_URL") {
        _ if given => ("source.url", url.clone()),
        Some(url) => ("DATABASE_URL", url.into()),
        None => return Ok(conninfo::from_variables(environment)),
    };
    conninfo::complete(&url, environment).map(Some).ok_or_else(|| {
        let reason = format!("not a PostgreSQL connection string; {}", conninfo::EXPECTED);
        if given { rules::error(document, key, reason) } else { ConfigError::outside_of_file(key, reason) }
    })
}
