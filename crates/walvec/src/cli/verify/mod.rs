//! `walvec verify`: compares the collections with their tables, and mends them on request.
//!
//! - [`running`]: the running walvec and the stored points, for the comparison
//! - [`through_broker`]: the workers that fill the collections through a broker, for the comparison
//! - [`show`]: the report, and the progress before it

mod running;
mod show;
mod through_broker;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use uuid::Uuid;
use walvec_capture::Source;
use walvec_embed::Embedder;
use walvec_pipeline::PipelineError;
use walvec_pipeline::observe::status::{SetAside, Status};
use walvec_transform::Chunker;
use walvec_verify::{
    Chunks, CompareJob, ComparedCollection, Fractions, KeywordFunction, Mended, Points, Report, VectorSample,
    VerifyError,
};

use self::running::{RunningWalvec, StoredPoints};
use self::show::ComparisonProgress;
use self::through_broker::Workers;
use super::{ConfigArgs, Failure, output};
use crate::assembly::collection::{E_FINGERPRINT, OpenCollection};
use crate::assembly::source::source_config;
use crate::assembly::{self, transform};
use crate::client::Client;
use crate::config::{ChunkSettings, CollectionConfig, Config, Stage};

/// Compare every point with its row, while everything runs; with --repair, repair what differs.
///
/// Reads the rows by a plain SELECT in one consistent snapshot, reads every point of the collection, and compares both with
/// code of its own: id, payload, key, hash of the text, model. A difference is checked again until it is certain that the row
/// was not changing. Needs a running `walvec run`; searches and changes continue meanwhile.
///
/// Finds rows without a point (missing), points without a row (extra), points that differ from their row (stale), rows with
/// a wrong number of chunks (chunks), and vectors that do not belong to their text (bad vectors). Vectors are checked for a
/// sample of points only, because each text has to be embedded again; --sample all takes as long as embedding the whole
/// table. Parked rows are listed, and do not count as mismatches.
///
/// Exit code 0: no mismatches. 1: mismatches. 3: the comparison failed.
#[derive(Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Only this collection [default: all of them]
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
    /// Let the running walvec read and embed the rows that differ again, and remove points without a row. Then compare these
    /// again.
    #[arg(long)]
    repair: bool,
    /// How many points to embed again, or "all".
    #[arg(long, value_name = "N|all", default_value = "200", value_parser = sample)]
    sample: VectorSample,
    /// The seed that chooses the sample, to choose the same one again [default: random, and printed]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The result for a collection, and that of its repair.
struct VerifyOutcome {
    report: Report,
    mended: Option<Mended>,
}

impl VerifyOutcome {
    /// Returns the number of mismatches that remain.
    fn left(&self) -> u64 {
        self.mended.as_ref().map_or_else(|| self.report.mismatches(), |mended| mended.left)
    }

    /// Returns the number of mismatches whose rows the repair could not process.
    fn parked(&self) -> u64 {
        self.mended.as_ref().map_or(0, |mended| mended.parked)
    }
}

fn sample(text: &str) -> Result<VectorSample, String> {
    match text {
        "all" => Ok(VectorSample::All),
        number => number.parse().map(VectorSample::Points).map_err(|_| "a number or \"all\" is expected".to_owned()),
    }
}

pub(crate) async fn execute(args: VerifyArgs) -> Result<ExitCode, Failure> {
    let config = args.config.load_to_compare()?;
    let collections = chosen(&config, args.collection.as_deref())?;
    let why = ", so it is not known which changes the collections should contain";
    let running = match (&config.broker, &config.sink.qdrant) {
        // The points of a server are read directly, and a group of workers has no member that could answer for all.
        (Some(_), Some(_)) => None,
        _ => Some(Client::needed(&config, &[Stage::Index, Stage::Sink], why).await?),
    };
    let workers = match &config.broker {
        Some(broker) => Some(Workers::find(&config, &broker.kafka).await?),
        None => None,
    };
    let followed: Box<dyn walvec_verify::Running> = match (workers, &running) {
        (Some(workers), _) => Box::new(workers),
        (None, Some(running)) => Box::new(RunningWalvec(running)),
        (None, None) => return Err(Failure::definite("E_NOT_RUNNING", "nothing runs")),
    };
    let embedder = assembly::load_embedder(&config).await?;
    let seed = args.seed.unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0 >> 32);
    let aside = match &running {
        Some(running) => set_aside(running).await?,
        None => Vec::new(),
    };
    let mut outcomes = Vec::with_capacity(collections.len());
    let mut skipped = 0_u64;
    for collection in collections {
        if let Some((_, why)) = aside.iter().find(|(name, _)| *name == collection.name) {
            // The points of a table that is not followed are of an earlier time, and stay.
            output::note(&format!(
                "collection \"{}\" is not compared, its table is not followed: {}",
                collection.name, why.message
            ));
            output::note(&format!("help: {}", why.remedy));
            skipped += 1;
            continue;
        }
        let comparison = CollectionComparison {
            config: &config,
            collection,
            running: running.as_ref(),
            followed: followed.as_ref(),
            embedder: &embedder,
        };
        outcomes.push(comparison.compare(&args, seed).await?);
    }
    let left = skipped + outcomes.iter().map(|outcome| outcome.left() + outcome.parked()).sum::<u64>();
    if args.json {
        output::json(&show::json(&outcomes, args.sample, seed))?;
    } else {
        output::line(&show::text(&outcomes, args.sample, seed))?;
    }
    Ok(if left == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Returns the collections whose tables are not followed, and why.
async fn set_aside(running: &Client) -> Result<Vec<(String, SetAside)>, Failure> {
    let status: Status = running.get("/api/v1/status", &[]).await?;
    Ok(status.collections.into_iter().filter_map(|found| Some((found.collection, found.set_aside?))).collect())
}

fn chosen<'a>(config: &'a Config, name: Option<&str>) -> Result<Vec<&'a CollectionConfig>, Failure> {
    let wanted = |collection: &&CollectionConfig| name.is_none_or(|name| collection.name == name);
    let chosen: Vec<_> = config.collections.iter().filter(wanted).collect();
    match (name, chosen.is_empty()) {
        (Some(name), true) => {
            let names: Vec<_> = config.collections.iter().map(|collection| collection.name.as_str()).collect();
            Err(Failure::new(2, "E_USAGE", format!("there is no collection \"{name}\""))
                .with_remedy(format!("one of: {}", names.join(", "))))
        }
        _ => Ok(chosen),
    }
}

/// Returns how texts are cut. The comparison uses the same library and model for this: there is no second implementation.
fn chunks(chunk: &ChunkSettings, embedder: &Arc<dyn Embedder>) -> Chunks {
    let chunker = Chunker::new(chunk.spec(), transform::token_counter(embedder));
    let split = move |text: &str| {
        let pieces = chunker.split(text).map_err(|error| error.to_string())?;
        Ok(pieces.into_iter().map(str::to_owned).collect())
    };
    Chunks { split: Arc::new(split), field: chunk.field.clone() }
}

/// The comparison of one collection.
struct CollectionComparison<'a> {
    config: &'a Config,
    collection: &'a CollectionConfig,
    /// The process that holds the points, if they are not on a server.
    running: Option<&'a Client>,
    /// The walvec or the workers that fill the collection.
    followed: &'a dyn walvec_verify::Running,
    embedder: &'a Arc<dyn Embedder>,
}

impl CollectionComparison<'_> {
    async fn compare(&self, args: &VerifyArgs, seed: u64) -> Result<VerifyOutcome, Failure> {
        let Self { config, collection, running, followed, embedder } = *self;
        let fingerprint = transform::fingerprint(embedder.as_ref(), collection);
        let points = StoredPoints::open(config, collection, running, embedder.info().dimension, &fingerprint).await?;
        let session = || async { walvec_capture::open_session(&config.source.url).await.map_err(PipelineError::from) };
        let (reader, query_session) = (session().await?, session().await?);
        let progress = ComparisonProgress::new(collection, self.estimated_rows().await);
        let job = CompareJob {
            spec: ComparedCollection {
                collection: collection.name.clone(),
                table: collection.table.clone(),
                text: collection.text.clone(),
                lookups: collection.lookups(),
                payload: collection.payload.clone(),
                computed: collection.computed.clone().into_iter().collect(),
                numbers: collection
                    .indexes()
                    .into_iter()
                    .filter(|(_, index)| index.is_number())
                    .map(|(field, index)| (field, index == walvec_model::IndexType::Integer))
                    .collect(),
                layout: collection.layout.into(),
                fingerprint,
                fractions: match config.sink.qdrant {
                    Some(_) => Fractions::Rounded,
                    None => Fractions::Exact,
                },
                chunks: collection.chunk.as_ref().map(|chunk| chunks(chunk, embedder)),
                keywords: transform::keywords(collection)
                    .map(|keywords| KeywordFunction(Arc::new(move |text| keywords.document(text)))),
            },
            publication: &config.source.publication,
            reader: &reader,
            query_session: &query_session,
            running: followed,
            points: &points as &dyn Points,
            embedder: Arc::clone(embedder),
            sample: args.sample,
            seed,
            watch: &|stage| progress.show(&stage),
        };
        let (report, mut findings) = match walvec_verify::compare(&job).await {
            Err(error @ VerifyError::Fingerprint { .. }) => return Err(self.explained(error).await),
            compared => compared?,
        };
        let mended = match args.repair && findings.count() > 0 {
            true => Some(walvec_verify::repair(&job, &mut findings).await?),
            false => None,
        };
        Ok(VerifyOutcome { report, mended })
    }

    /// Returns the number of rows, if the server's statistics have it.
    async fn estimated_rows(&self) -> Option<u64> {
        let source = Source::connect(source_config(self.config)).await.ok()?;
        let estimates = source.estimate_rows().await.ok()?;
        estimates.into_iter().find(|(table, _)| *table == self.collection.table).map(|(_, rows)| rows)
    }

    /// Adds what changed, if the collection records what it was made with.
    async fn explained(&self, error: VerifyError) -> Failure {
        let Self { config, collection, embedder, .. } = *self;
        let fingerprint = transform::fingerprint(embedder.as_ref(), collection);
        match OpenCollection::inspect(config, collection, embedder.info().dimension, &fingerprint).await {
            Err(failure) if failure.code() == E_FINGERPRINT => failure,
            Ok(_) | Err(_) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_a_number_or_all_points() {
        assert_eq!(sample("all"), Ok(VectorSample::All));
        assert_eq!(sample("0"), Ok(VectorSample::Points(0)));
        assert!(sample("-1").is_err() && sample("some").is_err());
    }
}
