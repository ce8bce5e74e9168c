//! Pulling models from a hub: a server on loopback that answers like the hub's file API.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex},
};

use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use walvec_embed::{
    EmbedError,
    hub::{DownloadProgress, Hub, OnProgress, pull},
    model_dir,
};

const MODEL: &str = "acme/tiny-embedder";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How a file is answered.
#[derive(Clone)]
enum File {
    Whole(Vec<u8>),
    /// The hub announces the file, sends half, and closes the connection.
    CutOff(Vec<u8>),
    /// The connection ends after half of the requested bytes; a request for the rest gets the rest.
    Breaking(Vec<u8>),
    /// Half of the file is sent as if it were all of it, as some proxies do.
    Short(Vec<u8>),
    /// Another content of the same length is sent.
    Altered(Vec<u8>),
    /// The first answer breaks off. A request for the rest is answered from the wrong place, a request for the whole file in full.
    Misplaced(Vec<u8>),
    /// Listed, but answered with 404.
    Missing,
    /// Listed, but answered with 403.
    Forbidden,
}

/// A hub with one model, which records its requests.
#[derive(Default)]
struct FakeHub {
    files: HashMap<String, File>,
    /// Whether the listing has names only, as that of a mirror may.
    lists_names_only: bool,
    requests: Mutex<Vec<String>>,
    /// The token without which requests are refused.
    token: Option<String>,
}

impl FakeHub {
    /// Creates a hub that serves the MiniLM files, with the network where most exports put it.
    fn with_minilm() -> Self {
        let dir = crate::minilm_dir();
        let mut hub = Self::default();
        for file in model_dir::CONFIG_FILES.iter().chain([&model_dir::TOKENIZER_FILE]) {
            hub.files.insert((*file).to_owned(), File::Whole(std::fs::read(dir.join(file)).unwrap()));
        }
        hub.files.insert("onnx/model.onnx".to_owned(), File::Whole(std::fs::read(dir.join("model.onnx")).unwrap()));
        hub.files.insert("README.md".to_owned(), File::Whole(b"# Tiny".to_vec()));
        hub
    }

    fn change(&mut self, file: &str, change: fn(Vec<u8>) -> File) {
        let Some(File::Whole(bytes)) = self.files.remove(file) else { panic!("{file} is not served") };
        self.files.insert(file.to_owned(), change(bytes));
    }

    /// Starts to serve, and returns the address to use as endpoint.
    async fn serve(self) -> (Arc<Self>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let hub = Arc::new(self);
        let served = Arc::clone(&hub);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let hub = Arc::clone(&served);
                tokio::spawn(async move { hub.answer(stream).await });
            }
        });
        (hub, address)
    }

    /// Answers one request and closes the connection.
    async fn answer(&self, stream: TcpStream) -> Option<()> {
        let mut stream = BufReader::new(stream);
        let mut head = Vec::new();
        while head.last().is_none_or(|line: &String| !line.is_empty()) {
            let mut line = String::new();
            stream.read_line(&mut line).await.ok()?;
            head.push(line.trim_end().to_owned());
        }
        let mut request = head[0].split(' ');
        let (method, path) = (request.next()?, request.next()?);
        self.requests.lock().unwrap().push(format!("{method} {path}"));
        let allowed = self.token.as_ref().is_none_or(|token| {
            head.iter().any(|line| line.eq_ignore_ascii_case(&format!("authorization: Bearer {token}")))
        });
        let from = head.iter().find_map(|line| {
            let from = line.to_ascii_lowercase().strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok();
            from.filter(|_| self.is_resumable(path))
        });
        let first = if matches!(self.file(path), Some(File::Misplaced(_))) { Some(0) } else { from };
        let range = first
            .filter(|_| from.is_some())
            .map_or_else(String::new, |first: usize| format!("Content-Range: bytes {first}-{}/*\r\n", first + 1));
        let (status, length, body) =
            if allowed { self.response(path, from.unwrap_or(0)) } else { (401, 0, Vec::new()) };
        let status = if from.is_some() { 206 } else { status };
        // A length of 0 for a body that is not empty means: no length is announced, and the body ends with the connection.
        let announced =
            if length == 0 && !body.is_empty() { String::new() } else { format!("Content-Length: {length}\r\n") };
        let head =
            format!("HTTP/1.1 {status} x\r\n{announced}{range}X-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.ok()?;
        stream.write_all(&body).await.ok()?;
        stream.shutdown().await.ok()
    }

    /// Returns status, announced length and body of a GET from byte `from` on.
    fn response(&self, path: &str, from: usize) -> (u16, usize, Vec<u8>) {
        if path == format!("/api/models/{MODEL}?blobs=true") {
            let siblings: Vec<_> = self.files.iter().map(|(file, content)| self.listed(file, content)).collect();
            let info = serde_json::json!({"id": MODEL, "sha": COMMIT, "siblings": siblings}).to_string();
            return (200, info.len(), info.into_bytes());
        }
        match self.file(path) {
            Some(File::Whole(bytes)) => (200, bytes.len(), bytes.clone()),
            Some(File::CutOff(bytes)) => (200, bytes.len(), bytes[..bytes.len() / 2].to_vec()),
            Some(File::Breaking(bytes)) => {
                let rest = &bytes[from..];
                (200, rest.len(), rest[..rest.len().div_ceil(2)].to_vec())
            }
            Some(File::Short(bytes)) => (200, 0, bytes[..bytes.len() / 2].to_vec()),
            Some(File::Altered(bytes)) => (200, bytes.len(), bytes.iter().rev().copied().collect()),
            Some(File::Misplaced(bytes)) => {
                let asked = self.requests.lock().unwrap().iter().filter(|request| request.ends_with(path)).count();
                (200, bytes.len(), bytes[..if asked == 1 { bytes.len() / 2 } else { bytes.len() }].to_vec())
            }
            Some(File::Forbidden) => (403, 0, Vec::new()),
            Some(File::Missing) | None => (404, 0, Vec::new()),
        }
    }

    /// Returns a file as the listing shows it: its length, and for a network, which lies in the large-file storage, its digest.
    fn listed(&self, name: &str, file: &File) -> serde_json::Value {
        let bytes = match file {
            File::Whole(bytes)
            | File::CutOff(bytes)
            | File::Breaking(bytes)
            | File::Short(bytes)
            | File::Misplaced(bytes)
            | File::Altered(bytes) => bytes,
            File::Missing | File::Forbidden => return serde_json::json!({"rfilename": name}),
        };
        if self.lists_names_only {
            return serde_json::json!({"rfilename": name});
        }
        let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let lfs = name.ends_with(".onnx").then(|| serde_json::json!({"sha256": digest, "size": bytes.len()}));
        serde_json::json!({"rfilename": name, "size": bytes.len(), "lfs": lfs})
    }

    fn is_resumable(&self, path: &str) -> bool {
        matches!(self.file(path), Some(File::Breaking(_) | File::Misplaced(_)))
    }

    fn file(&self, path: &str) -> Option<&File> {
        self.files.get(path.strip_prefix(&format!("/{MODEL}/resolve/{COMMIT}/"))?)
    }
}

fn hub_at(endpoint: &str) -> Hub {
    Hub { endpoint: Some(endpoint.to_owned()), token: Some("secret".into()) }
}

fn quiet() -> OnProgress {
    Arc::new(|_: &DownloadProgress| {})
}

async fn failed_pull(hub: FakeHub, name: &str, root: &Path) -> EmbedError {
    let (_, endpoint) = hub.serve().await;
    pull(name, root, &hub_at(&endpoint), quiet()).await.unwrap_err()
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

#[tokio::test]
async fn a_pulled_model_is_complete_and_can_be_used_by_its_name() {
    let root = tempfile::tempdir().unwrap();
    let (hub, endpoint) = FakeHub::with_minilm().serve().await;
    let seen = Arc::new(Mutex::new(HashMap::new()));
    let on_progress: OnProgress = {
        let seen = Arc::clone(&seen);
        Arc::new(move |progress: &DownloadProgress| {
            seen.lock().unwrap().insert(progress.file.clone(), (progress.bytes, progress.total_bytes));
        })
    };
    let dir = pull(MODEL, root.path(), &hub_at(&endpoint), on_progress).await.unwrap();

    assert_eq!(dir, root.path().join(MODEL));
    assert!(dir.join("1_Pooling/config.json").is_file());
    let embedder = walvec_embed::load(MODEL, root.path()).unwrap();
    assert_eq!((embedder.info().model.as_str(), embedder.info().max_tokens), (MODEL, 256));
    assert_eq!(model_dir::list(root.path()).unwrap().len(), 1);
    let network = std::fs::metadata(dir.join("onnx/model.onnx")).unwrap().len();
    assert_eq!(seen.lock().unwrap()["onnx/model.onnx"], (network, network));
    let requests = hub.requests.lock().unwrap();
    assert!(!requests.iter().any(|request| request.contains("README")), "{requests:?}");
    assert!(requests.iter().filter(|request| request.contains("/resolve/")).all(|request| request.contains(COMMIT)));
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1, "something was left beside the model");
}

#[tokio::test]
async fn an_optional_file_that_the_hub_does_not_hold_is_done_without() {
    let root = tempfile::tempdir().unwrap();
    let mut hub = FakeHub::with_minilm();
    hub.change("special_tokens_map.json", |_| File::Missing);
    hub.files.remove("modules.json");
    let (_, endpoint) = hub.serve().await;
    let dir = pull(MODEL, root.path(), &hub_at(&endpoint), quiet()).await.unwrap();
    assert!(dir.join("config.json").is_file() && !dir.join("special_tokens_map.json").exists());
}

#[tokio::test]
async fn an_optional_file_that_the_hub_refuses_fails_the_pull() {
    let root = tempfile::tempdir().unwrap();
    let mut hub = FakeHub::with_minilm();
    hub.change("config.json", |_| File::Forbidden);
    let error = failed_pull(hub, MODEL, root.path()).await;
    assert!(matches!(&error, EmbedError::HubRefused { reason, .. } if reason.contains("restricted")), "{error}");
    assert!(is_empty(root.path()));
}

#[tokio::test]
async fn a_required_file_that_the_hub_does_not_hold_fails_the_pull() {
    let root = tempfile::tempdir().unwrap();
    let mut hub = FakeHub::with_minilm();
    hub.change("tokenizer.json", |_| File::Missing);
    let error = failed_pull(hub, MODEL, root.path()).await;
    assert!(matches!(&error, EmbedError::HubRefused { reason, .. } if reason.contains("tokenizer.json")), "{error}");
    assert!(is_empty(root.path()));
}

#[tokio::test]
async fn a_model_that_the_hub_does_not_know_is_refused_for_good() {
    let root = tempfile::tempdir().unwrap();
    let error = failed_pull(FakeHub::with_minilm(), "acme/unknown", root.path()).await;
    assert!(matches!(error, EmbedError::HubRefused { .. }), "{error}");
    assert!(!error.is_retryable());
    assert!(is_empty(root.path()));
}

#[tokio::test]
async fn a_model_without_an_onnx_export_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut hub = FakeHub::with_minilm();
    hub.files.remove("onnx/model.onnx");
    let error = failed_pull(hub, MODEL, root.path()).await;
    assert!(matches!(&error, EmbedError::HubRefused { reason, .. } if reason.contains("ONNX")), "{error}");
}

#[tokio::test]
async fn a_connection_cut_in_the_middle_of_a_file_leaves_nothing_behind() {
    for cut in [File::CutOff as fn(Vec<u8>) -> File, File::Short] {
        let root = tempfile::tempdir().unwrap();
        let mut hub = FakeHub::with_minilm();
        hub.change("onnx/model.onnx", cut);
        let error = failed_pull(hub, MODEL, root.path()).await;
        assert!(matches!(error, EmbedError::HubUnreachable { .. }), "{error}");
        assert!(error.is_retryable());
        assert!(is_empty(root.path()));
    }
}

#[tokio::test]
async fn a_transfer_that_breaks_again_and_again_is_resumed_where_it_stopped() {
    let root = tempfile::tempdir().unwrap();
    let mut hub = FakeHub::with_minilm();
    hub.change("tokenizer.json", File::Breaking);
    let (hub, endpoint) = hub.serve().await;
    let dir = pull(MODEL, root.path(), &hub_at(&endpoint), quiet()).await.unwrap();
    let original = std::fs::read(crate::minilm_dir().join("tokenizer.json")).unwrap();
    assert!(std::fs::read(dir.join("tokenizer.json")).unwrap() == original, "it was put together wrongly");
    let asked = hub.requests.lock().unwrap().iter().filter(|request| request.contains("tokenizer.json")).count();
    assert!(asked > 3, "{asked} requests");
}

#[tokio::test]
async fn a_mirror_that_goes_on_at_another_place_is_asked_for_the_whole_file() {
    let root = tempfile::tempdir().unwrap();
    let mut hub = FakeHub::with_minilm();
    hub.change("tokenizer.json", File::Misplaced);
    let (_, endpoint) = hub.serve().await;
    let dir = pull(MODEL, root.path(), &hub_at(&endpoint), quiet()).await.unwrap();
    let original = std::fs::read(crate::minilm_dir().join("tokenizer.json")).unwrap();
    assert!(std::fs::read(dir.join("tokenizer.json")).unwrap() == original, "it was put together wrongly");
}

#[tokio::test]
async fn a_mirror_that_lists_nothing_but_names_serves_too() {
    let root = tempfile::tempdir().unwrap();
    let mut hub = FakeHub::with_minilm();
    hub.lists_names_only = true;
    let (_, endpoint) = hub.serve().await;
    pull(MODEL, root.path(), &hub_at(&format!("{endpoint}/")), quiet()).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_not_what_the_hub_listed_is_not_installed() {
    let root = tempfile::tempdir().unwrap();
    let mut hub = FakeHub::with_minilm();
    hub.change("onnx/model.onnx", File::Altered);
    let error = failed_pull(hub, MODEL, root.path()).await;
    assert!(matches!(&error, EmbedError::HubUnreachable { reason, .. } if reason.contains("SHA-256")), "{error}");
    assert!(is_empty(root.path()));
}

#[tokio::test]
async fn a_pull_that_fails_keeps_the_model_that_was_installed_and_one_that_works_replaces_it() {
    let root = tempfile::tempdir().unwrap();
    let old = root.path().join(MODEL).join("old");
    std::fs::create_dir_all(old.parent().unwrap()).unwrap();
    std::fs::write(&old, "").unwrap();
    let mut hub = FakeHub::with_minilm();
    hub.change("tokenizer.json", File::CutOff);
    failed_pull(hub, MODEL, root.path()).await;
    assert!(old.is_file());

    let (_, endpoint) = FakeHub::with_minilm().serve().await;
    let dir = pull(MODEL, root.path(), &hub_at(&endpoint), quiet()).await.unwrap();
    assert!(!old.exists() && dir.join("tokenizer.json").is_file());
}

#[tokio::test]
async fn a_model_that_cannot_be_run_here_is_not_installed() {
    let root = tempfile::tempdir().unwrap();
    let mut hub = FakeHub::with_minilm();
    hub.change("onnx/model.onnx", |_| File::Whole(b"not a network".to_vec()));
    let error = failed_pull(hub, MODEL, root.path()).await;
    assert_eq!(error.code(), "E_MODEL", "{error}");
    assert!(is_empty(root.path()));
}

#[tokio::test]
async fn the_token_is_sent_and_its_absence_explained() {
    let root = tempfile::tempdir().unwrap();
    let mut hub = FakeHub::with_minilm();
    hub.token = Some("secret".to_owned());
    let (_, endpoint) = hub.serve().await;
    pull(MODEL, root.path(), &hub_at(&endpoint), quiet()).await.unwrap();
    let wrong = Hub { endpoint: Some(endpoint), token: Some("wrong".into()) };
    let error = pull(MODEL, root.path(), &wrong, quiet()).await.unwrap_err();
    assert!(error.to_string().contains("token"), "{error}");
    assert!(!error.to_string().contains("wrong"), "{error}");
}

#[tokio::test]
async fn a_hub_that_cannot_be_reached_is_named_with_a_way_out() {
    let root = tempfile::tempdir().unwrap();
    // A port that was free a moment ago, so no server listens there.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let endpoint = format!("https://127.0.0.1:{port}");
    let error = pull(MODEL, root.path(), &hub_at(&endpoint), quiet()).await.unwrap_err();
    assert_eq!(error.code(), "E_HUB");
    assert!(error.is_retryable() && error.to_string().contains(&endpoint), "{error}");
    assert!(error.remedy().contains("HF_ENDPOINT") && error.remedy().contains(MODEL));
    assert!(is_empty(root.path()));
}

#[tokio::test]
async fn a_name_cannot_make_a_pull_write_outside_the_models_root() {
    let root = tempfile::tempdir().unwrap();
    for name in ["../escape", "a/../../b", "/tmp/x", ""] {
        let error = pull(name, root.path(), &hub_at("http://127.0.0.1:9"), quiet()).await.unwrap_err();
        assert_eq!(error.code(), "E_MODEL_NAME", "{name}");
    }
}
