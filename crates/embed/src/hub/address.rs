//! Which hub to ask, and with which token.

use std::{env, fs, path::PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

/// The public hub.
const PUBLIC: &str = "https://huggingface.co";

/// A model hub, and the token to ask it with.
///
/// A field that is `None` is read from the environment, by the rules of the hub's own tools: `HF_ENDPOINT`; `HF_TOKEN`, else the
/// file that `HF_TOKEN_PATH` names, else `token` in `HF_HOME`, which is `~/.cache/huggingface` by default. With
/// `HF_HUB_DISABLE_IMPLICIT_TOKEN=1` only a token that is given here is sent.
#[derive(Clone, Debug, Default)]
pub struct Hub {
    /// Base URL.
    pub endpoint: Option<String>,
    /// Access token.
    pub token: Option<SecretString>,
}

impl Hub {
    /// Returns the base URL without a slash at its end.
    pub(super) fn endpoint(&self) -> String {
        let endpoint = self.endpoint.clone().or_else(|| variable("HF_ENDPOINT")).unwrap_or_else(|| PUBLIC.to_owned());
        endpoint.trim_end_matches('/').to_owned()
    }

    /// Returns the token to send, if there is one.
    pub(super) fn token(&self) -> Option<SecretString> {
        self.token.clone().or_else(|| implicit_token(variable))
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns the token that these environment variables lead to.
fn implicit_token(variable: impl Fn(&str) -> Option<String>) -> Option<SecretString> {
    let is_disabled = variable("HF_HUB_DISABLE_IMPLICIT_TOKEN")
        .is_some_and(|value| ["1", "on", "yes", "true"].iter().any(|yes| value.eq_ignore_ascii_case(yes)));
    if is_disabled {
        return None;
    }
    let home = || {
        let cache = || variable("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = || cache().or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")));
        variable("HF_HOME").map(PathBuf::from).or_else(|| Some(cache()?.join("huggingface")))
    };
    let file = || variable("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home()?.join("token")));
    let token = variable("HF_TOKEN").or_else(|| fs::read_to_string(file()?).ok())?;
    let token = SecretString::from(token.trim().to_owned());
    (!token.expose_secret().is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(variables: &[(&str, &str)]) -> Option<String> {
        let variable =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        implicit_token(variable).map(|token| token.expose_secret().to_owned())
    }

    #[test]
    fn the_token_is_the_one_that_the_tools_of_the_hub_would_send() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().to_str().unwrap();
        assert_eq!(token(&[("HF_HOME", path)]), None);
        fs::write(home.path().join("token"), "from-login\n").unwrap();
        fs::write(home.path().join("other"), "from-file").unwrap();
        let file = format!("{path}/other");
        assert_eq!(token(&[("HF_HOME", path)]).as_deref(), Some("from-login"));
        assert_eq!(token(&[("HF_HOME", path), ("HF_TOKEN_PATH", &file)]).as_deref(), Some("from-file"));
        assert_eq!(token(&[("HF_TOKEN", "said"), ("HF_HOME", path)]).as_deref(), Some("said"));
        assert_eq!(token(&[("HF_TOKEN", "said"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
    }
}
