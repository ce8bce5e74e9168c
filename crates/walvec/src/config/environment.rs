//! Environment variables, injected so that tests need none.

use std::collections::HashMap;
use std::path::PathBuf;

use super::error::ConfigError;

/// The variables of a process. Deliberately without `Debug`: passwords are among them.
#[derive(Clone, Default)]
pub(crate) struct Environment(HashMap<String, String>);

impl Environment {
    /// The variables of this process. Those that are not UTF-8 cannot be used in a configuration and are left out.
    pub(crate) fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
        )
    }

    /// The variable, if it is set, even to an empty text.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The variable, if it is set to anything.
    pub(crate) fn non_empty(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// The directory in which models are kept: `WALVEC_MODELS`, or `walvec/models` in the user's cache directory.
    pub(crate) fn models_root(&self) -> Result<PathBuf, ConfigError> {
        let variable = |name| self.get(name).map(Into::into);
        walvec_embed::model_dir::root_from(variable("WALVEC_MODELS"), variable("XDG_CACHE_HOME"), variable("HOME"))
            .ok_or_else(|| {
                let reason = "not set, and neither is HOME, so there is no place for models; set it to a directory";
                ConfigError::outside_of_file("WALVEC_MODELS", reason)
            })
    }
}

#[cfg(test)]
impl Environment {
    /// An environment of nothing but these variables.
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        Self(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }
}
