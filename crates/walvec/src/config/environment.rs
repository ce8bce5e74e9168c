//! Environment variables and the path of the program, injected so that tests do not depend on either.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;

use walvec_embed::model_dir;

use super::error::ConfigError;

/// The environment of a process. Deliberately without `Debug`: passwords are among the variables.
#[derive(Clone, Default)]
pub(crate) struct Environment {
    variables: HashMap<String, String>,
    /// The models roots of packages that were installed with the program.
    packaged_models: Vec<PathBuf>,
}

impl Environment {
    /// Returns the environment of this process. Variables that are not UTF-8 cannot be used in a configuration and are
    /// left out.
    pub(crate) fn of_process() -> Self {
        let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        // pipx and npm link to the program from a directory of PATH.
        let program = std::env::current_exe().and_then(std::fs::canonicalize);
        Self {
            variables: std::env::vars_os().filter_map(text).collect(),
            packaged_models: program.map(|program| model_dir::packaged_roots(&program)).unwrap_or_default(),
        }
    }

    /// Returns the variable, if it is set, even to an empty text.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Returns the variable, if it is set to a text that is not empty.
    pub(crate) fn non_empty(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// Returns the directory of the user's models: `WALVEC_MODELS`, or `walvec/models` in the cache directory.
    pub(crate) fn models_root(&self) -> Result<PathBuf, ConfigError> {
        let variable = |name| self.get(name).map(Into::into);
        model_dir::root_from(variable("WALVEC_MODELS"), variable("XDG_CACHE_HOME"), variable("HOME")).ok_or_else(|| {
            let reason = "not set, and neither is HOME, so there is no place for models; set it to a directory";
            ConfigError::outside_of_file("WALVEC_MODELS", reason)
        })
    }

    /// Returns the directories with models: the user's, then those of packages that were installed with the program.
    pub(crate) fn models_roots(&self) -> Vec<PathBuf> {
        self.models_root().into_iter().chain(self.packaged_models.iter().cloned()).collect()
    }

    /// Returns the directory for the model `name`: the first that has it, else the user's.
    pub(crate) fn models_root_of(&self, name: &str) -> Result<PathBuf, ConfigError> {
        model_dir::root_of(name, &self.models_roots()).map_or_else(|| self.models_root(), |root| Ok(root.to_owned()))
    }
}

#[cfg(test)]
impl Environment {
    /// Makes an environment of these variables only.
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { variables, packaged_models: Vec::new() }
    }

    /// Adds models that were installed with the program in these directories.
    pub(crate) fn with_packaged_models(self, packaged_models: Vec<PathBuf>) -> Self {
        Self { packaged_models, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packaged_model_is_used_until_the_user_has_one_of_that_name() {
        let directory = tempfile::tempdir().unwrap();
        let [own, packaged] = ["own", "packaged"].map(|root| directory.path().join(root));
        std::fs::create_dir_all(packaged.join("a/b")).unwrap();
        let variables = [("WALVEC_MODELS", own.to_str().unwrap())];
        let environment = Environment::of(&variables).with_packaged_models(vec![packaged.clone()]);
        assert_eq!(environment.models_root_of("a/b").unwrap(), packaged);
        assert_eq!(environment.models_root_of("a/c").unwrap(), own);
        let homeless = Environment::of(&[]).with_packaged_models(vec![packaged]);
        assert!(homeless.models_root_of("a/b").is_ok() && homeless.models_root_of("a/c").is_err());
        std::fs::create_dir_all(own.join("a/b")).unwrap();
        assert_eq!(environment.models_root_of("a/b").unwrap(), own);
    }
}
