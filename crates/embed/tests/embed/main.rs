//! What users rely on, with a real model: `make model` installs it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod hub;
mod minilm;
mod providers;
mod static_models;

use std::path::PathBuf;

use walvec_embed::model_dir;

/// Where this machine keeps models, by the rule that the program uses.
fn models_root() -> PathBuf {
    let var = |name| std::env::var_os(name);
    model_dir::root_from(var("WALVEC_MODELS"), var("XDG_CACHE_HOME"), var("HOME")).expect("HOME is set")
}

/// The directory of the model that the tests need. They fail without it rather than pass untested.
fn minilm_dir() -> PathBuf {
    let dir = model_dir::resolve(model_dir::DEMO_MODEL, &models_root());
    dir.unwrap_or_else(|error| panic!("{error}: run `make model`"))
}
