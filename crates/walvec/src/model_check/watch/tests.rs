use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use futures::poll;
use tempfile::TempDir;
use walvec_embed::hash::HashEmbedder;
use walvec_embed::{BoxFuture, EmbedError, EmbedderInfo};
use walvec_model::{Moment, Vector};
use walvec_pipeline::observe::status::Problem;

use super::super::{StoredSample, read, write};
use super::*;

/// Longer than any test takes: a test that waits for it fails.
const NEVER: Duration = Duration::from_hours(24);

/// The shortest possible pause.
const SHORT: Duration = Duration::from_millis(1);

/// The answer of the provider to a request for the sample.
#[derive(Clone, Copy)]
enum Says {
    /// The vector of the first model.
    First,
    /// The vector of another model.
    Another,
    /// No answer, because it is away.
    Nothing,
}

/// A provider that gives one answer after the other, and repeats the last one. Without answers it stands for a model
/// whose files are here.
struct Provider {
    info: EmbedderInfo,
    says: Mutex<VecDeque<Says>>,
    asked: AtomicUsize,
}

impl Provider {
    fn new(says: &[Says]) -> Arc<Self> {
        let info = HashEmbedder::new(2).unwrap().info().clone();
        let says = Mutex::new(says.iter().copied().collect());
        Arc::new(Self { info, says, asked: AtomicUsize::new(0) })
    }

    fn next(&self) -> Option<Says> {
        let mut says = self.says.lock().unwrap();
        if says.len() > 1 { says.pop_front() } else { says.front().copied() }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Embedder for Provider {
    fn info(&self) -> &EmbedderInfo {
        &self.info
    }

    fn count_tokens(&self, _text: &str) -> usize {
        1
    }

    fn embed(&self, _texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<Vector, EmbedError>>, EmbedError>> {
        panic!("a comparison asks for nothing but the sample")
    }

    fn sample(&self) -> BoxFuture<'_, Result<Option<Vector>, EmbedError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = match self.next() {
            None => Ok(None),
            Some(Says::First) => Ok(Some(vec![1.0, 0.0])),
            Some(Says::Another) => Ok(Some(vec![0.0, 1.0])),
            Some(Says::Nothing) => Err(EmbedError::Failed("it is away".to_owned())),
        };
        Box::pin(std::future::ready(answer))
    }
}

fn serving(embedder: Arc<dyn Embedder>) -> Arc<Serving> {
    Arc::new(Serving { collections: Vec::new(), embedder })
}

/// A watch, its directory, and the senders of what is served and of the pipeline's status.
struct Watched {
    watch: ModelWatch,
    directory: TempDir,
    serving: watch::Sender<Arc<Serving>>,
    status: watch::Sender<Status>,
}

impl Watched {
    fn new(embedder: Arc<dyn Embedder>, usual: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (serving, served) = watch::channel(serving(embedder));
        let (status, shown) = watch::channel(Status::default());
        let pauses = Pauses { usual, first_retry: SHORT, longest_retry: SHORT };
        let watch = ModelWatch { file: directory.path().join("samples.json"), serving: served, status: shown, pauses };
        Self { watch, directory, serving, status }
    }

    /// Stores the vector of the first model, as given at the beginning of 1970.
    fn remember(self) -> Self {
        let sample = StoredSample { vector: vec![1.0, 0.0], same_at: SystemTime::UNIX_EPOCH.into() };
        let info = HashEmbedder::new(2).unwrap().info().clone();
        write(&self.watch.file, &[(format!("{} 2", info.revision), sample)].into()).unwrap();
        self
    }

    fn when_it_was_the_same(directory: &TempDir) -> Vec<Moment> {
        read(&directory.path().join("samples.json")).values().map(|sample| sample.same_at).collect()
    }
}

#[tokio::test]
async fn another_model_is_found_while_walvec_runs_with_the_time_until_which_it_was_the_same() {
    let provider = Provider::new(&[Says::First, Says::First, Says::First, Says::Another]);
    let before = Moment::from(SystemTime::now());
    let Watched { watch, directory, serving: _serving, status: _status } =
        Watched::new(provider.clone(), SHORT).remember();
    let (code, what, remedy) = watch.another_model(true).await.into_parts();
    assert_eq!(code, "E_MODEL_CHANGED");
    assert_eq!(provider.asked(), 4, "a text each time");
    let [same_at] = Watched::when_it_was_the_same(&directory)[..] else { panic!("there is one sample") };
    assert!(same_at >= before && what.contains(&same_at.to_string()), "{what}");
    assert!(remedy.unwrap().contains("walvec reset --purge"));
}

#[tokio::test]
async fn a_provider_that_has_not_answered_is_asked_again_soon() {
    let provider = Provider::new(&[Says::Nothing, Says::Nothing, Says::Another]);
    let Watched { watch, directory: _directory, serving: _serving, status: _status } =
        Watched::new(provider.clone(), NEVER).remember();
    let (code, what, _) = watch.another_model(false).await.into_parts();
    assert_eq!((code.as_str(), provider.asked()), ("E_MODEL_CHANGED", 3));
    assert!(what.contains("1970-01-01 00:00:00 UTC"), "{what}");
}

#[tokio::test]
async fn a_provider_that_is_back_is_asked_at_once() {
    let provider = Provider::new(&[Says::Another]);
    let Watched { watch, directory: _directory, serving: _serving, status } =
        Watched::new(provider.clone(), NEVER).remember();
    let mut another_model = std::pin::pin!(watch.another_model(true));
    let problem = |part: &str| Problem { part: part.to_owned(), message: "away".to_owned(), remedy: None, attempts: 1 };
    for part in ["sink", "embedder"] {
        status.send_modify(|status| status.problem = Some(problem(part)));
        assert!(poll!(&mut another_model).is_pending());
    }
    assert_eq!(provider.asked(), 0);
    status.send_modify(|status| status.problem = None);
    assert_eq!(another_model.await.code(), "E_MODEL_CHANGED");
    assert_eq!(provider.asked(), 1);
}

#[tokio::test]
async fn a_model_whose_files_are_here_is_not_compared_and_one_that_takes_its_place_is() {
    let (local, provider) = (Provider::new(&[]), Provider::new(&[Says::Another]));
    let Watched { watch, directory, serving: served, status: _status } = Watched::new(local.clone(), NEVER).remember();
    let mut another_model = std::pin::pin!(watch.another_model(false));
    while local.asked() == 0 {
        assert!(poll!(&mut another_model).is_pending());
        tokio::task::yield_now().await;
    }
    assert_eq!(Watched::when_it_was_the_same(&directory), [SystemTime::UNIX_EPOCH.into()]);
    served.send_replace(serving(provider.clone()));
    assert_eq!(another_model.await.code(), "E_MODEL_CHANGED");
    assert_eq!((local.asked(), provider.asked()), (1, 1));
}

#[tokio::test]
async fn the_first_answer_is_remembered_although_there_was_none_at_the_start() {
    let provider = Provider::new(&[Says::Nothing, Says::First, Says::Another]);
    let Watched { watch, directory, serving: _serving, status: _status } = Watched::new(provider.clone(), SHORT);
    assert_eq!(watch.another_model(false).await.code(), "E_MODEL_CHANGED");
    assert_eq!((provider.asked(), Watched::when_it_was_the_same(&directory).len()), (3, 1));
}

#[test]
fn pauses_grow_while_a_provider_is_away_and_end_at_a_minute() {
    let pauses = Pauses { usual: USUAL_PAUSE, first_retry: FIRST_RETRY, longest_retry: LONGEST_RETRY };
    let seconds: Vec<u64> = [0, 1, 2, 3, 4, 5, 6, 100].map(|failures| pauses.after(failures).as_secs()).into();
    assert_eq!(seconds, [600, 5, 10, 20, 40, 60, 60, 60]);
}
