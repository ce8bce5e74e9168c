//! Guarantees to users, tested with a real model: `make model` installs it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod hub;
mod minilm;
mod providers;
mod static_models;

use std::path::PathBuf;

use walvec_embed::model_dir;

/// Returns the models root of this machine, by the rule that the program uses.
fn models_root() -> PathBuf {
    let var = |name| std::env::var_os(name);
    model_dir::root_from(var("WALVEC_MODELS"), var("XDG_CACHE_HOME"), var("HOME")).expect("HOME is set")
}

/// Returns the directory of the model that the tests need. Without it they fail rather than pass
/// untested.
fn minilm_dir() -> PathBuf {
    let dir = model_dir::resolve(model_dir::DEMO_MODEL, &models_root());
    dir.unwrap_or_else(|error| panic!("{error}: run `make model`"))
}
