//! Where a configuration comes from, and what beats what: flag, environment, file, default.
//!
//! Two kinds of variables go their own way. `WALVEC_LISTEN`, `WALVEC_TOKEN` and `WALVEC_MODELS` are made for walvec and
//! beat the file. `DATABASE_URL` and `PG*` are made for everybody: as in libpq they only fill in what the file leaves
//! out, so that a variable that was set for another program never points walvec at another database.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};
use walvec_model::TableName;

use super::document::Document;
use super::environment::Environment;
use super::error::ConfigError;
use super::settings::{CollectionConfig, Config, EmbeddingSettings, LayoutKind, PipelineSettings, QdrantSettings};
use super::settings::{ServerSettings, SinkSettings, SourceSettings};
use super::{conninfo, names, reader, rules};

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "walvec.yaml";

/// Values given as flags.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    /// Instead of `server.listen`.
    pub(crate) listen: Option<SocketAddr>,
}

impl Config {
    /// Loads the configuration from `path`; without one from ./walvec.yaml; without that from the variables of the
    /// tutorial stack (`PG_HOST`, `PG_TABLE`, ...).
    pub(crate) fn load(
        path: Option<&Path>,
        environment: &Environment,
        overrides: Overrides,
    ) -> Result<Self, ConfigError> {
        let file = path.map_or_else(|| PathBuf::from(DEFAULT_FILE), Path::to_owned);
        match std::fs::read_to_string(&file) {
            Ok(text) => from_named_text(&file.display().to_string(), &text, environment, overrides),
            Err(error) if error.kind() == ErrorKind::NotFound && path.is_none() => {
                from_variables(environment)?.completed(None, environment, overrides)
            }
            Err(source) => Err(ConfigError::Unreadable { path: file, source }),
        }
    }

    /// Loads the configuration from the text of a file.
    pub(crate) fn from_text(text: &str, environment: &Environment, overrides: Overrides) -> Result<Self, ConfigError> {
        from_named_text(DEFAULT_FILE, text, environment, overrides)
    }

    /// Adds what environment and flags say, then checks the whole.
    fn completed(
        mut self,
        document: Option<&Document>,
        environment: &Environment,
        overrides: Overrides,
    ) -> Result<Self, ConfigError> {
        self.source.url = database_url(&self.source.url, document, environment)?;
        if let Some(listen) = environment.non_empty("WALVEC_LISTEN") {
            let parsed = names::listen_address(listen);
            self.server.listen = parsed.map_err(|reason| ConfigError::outside_of_file("WALVEC_LISTEN", reason))?;
        }
        self.server.listen = overrides.listen.unwrap_or(self.server.listen);
        if let Some(token) = environment.non_empty("WALVEC_TOKEN") {
            self.server.token = Some(token.into());
        }
        self.models = environment.models_root()?;
        rules::check(&self, document)?;
        Ok(self)
    }
}

fn from_named_text(
    name: &str,
    text: &str,
    environment: &Environment,
    overrides: Overrides,
) -> Result<Config, ConfigError> {
    let document = Document::parse(name, text)?;
    reader::read(&document, environment)?.completed(Some(&document), environment, overrides)
}

fn database_url(
    url: &SecretString,
    document: Option<&Document>,
    environment: &Environment,
) -> Result<SecretString, ConfigError> {
    let given = !url.expose_secret().is_empty();
    let (key, url) = match environment.non_empty("DATABASE_URL") {
        _ if given => ("source.url", url.clone()),
        Some(url) => ("DATABASE_URL", url.into()),
        None => {
            return conninfo::from_variables(environment).ok_or_else(|| {
                let reason = "missing; give it here, or set DATABASE_URL, or PGHOST, PGUSER, PGPASSWORD and PGDATABASE";
                rules::error(document, "source.url", reason)
            });
        }
    };
    conninfo::complete(&url, environment).ok_or_else(|| {
        let reason = format!("not a PostgreSQL connection string; {}", conninfo::EXPECTED);
        if given { rules::error(document, key, reason) } else { ConfigError::outside_of_file(key, reason) }
    })
}

/// What the variables of the tutorial stack that walvec replaces ask for: the same table, the same text to embed and the
/// same payload.
fn from_variables(environment: &Environment) -> Result<Config, ConfigError> {
    if environment.non_empty("Quix__Broker__Address").is_some() && environment.non_empty("PG_TABLE").is_some() {
        let reason = "a broker is not supported yet by this version of walvec: it reads from PostgreSQL directly; unset \
            Quix__Broker__Address";
        return Err(ConfigError::outside_of_file("Quix__Broker__Address", reason));
    }
    let table = environment.non_empty("PG_TABLE").ok_or(ConfigError::Absent)?;
    let schema = environment.non_empty("PG_SCHEMA").unwrap_or("public");
    let collection = CollectionConfig {
        name: environment.non_empty("qd_collection").unwrap_or(table).to_owned(),
        table: TableName::new(schema, table),
        filter: None,
        text: "{{ description }}".to_owned(),
        payload: Some(["name", "description", "author", "year"].map(str::to_owned).to_vec()),
        computed: BTreeMap::new(),
        index: BTreeMap::new(),
        layout: LayoutKind::default(),
    };
    let sink = sink_from_variables(environment)?;
    Ok(Config {
        source: SourceSettings { url: url_from_variables(environment), ..SourceSettings::default() },
        collections: vec![collection],
        embedding: EmbeddingSettings::default(),
        sink,
        server: ServerSettings::default(),
        pipeline: PipelineSettings::default(),
        models: PathBuf::new(),
    })
}

/// `qd_host` and `qd_port`. The tutorial's programs speak HTTP, at 6333; gRPC is at 6334 then.
fn sink_from_variables(environment: &Environment) -> Result<SinkSettings, ConfigError> {
    let refused = |variable, reason: &str| {
        let reason = format!("{reason}; write a walvec.yaml with `sink.qdrant.url`, or unset it");
        Err(ConfigError::outside_of_file(variable, reason))
    };
    let port = environment.non_empty("qd_port");
    let Some(host) = environment.non_empty("qd_host") else {
        return match port {
            Some(_) => refused("qd_port", "useless without qd_host"),
            None => Ok(SinkSettings::default()),
        };
    };
    if host.contains(['/', ':']) {
        return refused("qd_host", "not the name of a host");
    }
    if port.is_some_and(|port| !["6333", "6334"].contains(&port)) {
        return refused("qd_port", "walvec speaks gRPC, and cannot tell which port that is beside this one");
    }
    let qdrant = QdrantSettings { url: format!("http://{host}:6334"), ..QdrantSettings::default() };
    Ok(SinkSettings { qdrant: Some(qdrant), ..SinkSettings::default() })
}

/// `PG_HOST` and so on, as pairs; empty if there are none.
fn url_from_variables(environment: &Environment) -> SecretString {
    let variables = [
        ("host", "PG_HOST"),
        ("port", "PG_PORT"),
        ("user", "PG_USER"),
        ("password", "PG_PASSWORD"),
        ("dbname", "PG_DATABASE"),
    ];
    let pairs = variables
        .iter()
        .filter_map(|(setting, variable)| Some(conninfo::pair(setting, environment.non_empty(variable)?)));
    pairs.collect::<Vec<_>>().join(" ").into()
}
