//! Guarantees to a user who configures something, rightly or wrongly.

use secrecy::ExposeSecret as _;
use walvec_model::TableName;

use super::*;

mod broker;
mod embedding;
mod example;
mod features;
mod lookups;
mod sources;
mod values;
mod yaml;

const EXAMPLE: &str = include_str!("../../../../walvec.example.yaml");

/// The least content of a file, apart from `source.url`.
const COLLECTION: &str = "collections:\n  - { name: books, table: public.books, text: '{{ name }}' }\n";

const URL: &str = "postgres://u:p@h:5432/d?sslmode=require";

/// Parses the configuration in `text`, for a program with all features.
fn parse(text: &str, environment: &Environment, overrides: Overrides) -> Result<Config, ConfigError> {
    load::from_named_text("walvec.yaml", text, environment, overrides, Features::ALL)
}

fn environment() -> Environment {
    Environment::of(&[("HOME", "/home/me"), ("DATABASE_URL", URL)])
}

fn with(variables: &[(&str, &str)]) -> Environment {
    let mut all = vec![("HOME", "/home/me")];
    all.extend(variables);
    Environment::of(&all)
}

fn load(text: &str) -> Config {
    parse(text, &environment(), Overrides::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// Returns the message for a wrong file.
fn refusal(text: &str) -> String {
    refusal_in(text, &environment())
}

fn refusal_in(text: &str, environment: &Environment) -> String {
    parse(text, environment, Overrides::default()).expect_err(text).to_string()
}

fn url(config: &Config) -> &str {
    config.source.url.expose_secret()
}
