#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use std::time::{Duration, Instant};
use walvec_model::*;
use walvec_sink::embedded::Embedded;
use walvec_sink::*;
const DIM: usize = 384;
fn vector(rng: &mut StdRng) -> Vec<f32> {
    (0..DIM).map(|_| rng.random_range(-1.0..1.0)).collect()
}
fn rss() -> (u64, u64) {
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    let get = |k: &str| {
        s.lines().find(|l| l.starts_with(k)).and_then(|l| l.split_whitespace().nth(1)).unwrap().parse::<u64>().unwrap()
            / 1024
    };
    (get("RssAnon:"), get("RssFile:"))
}
fn pt(id: u64, rng: &mut StdRng) -> Write {
    Write::Upsert(Point { id: PointId::Num(id), vector: vector(rng), payload: json!({"name": format!("book {id}"), "description": "a longer text of some eighty characters, about what a small catalogue would hold", "year": 1900 + id % 120}).as_object().unwrap().clone(),
        provenance: Provenance { position: Position { commit_lsn: Lsn(100), ordinal: id }, table: "public.books".into(), key: vec![json!(id)], input_hash: InputHash::of("x"), fingerprint: Fingerprint::of(&["m"]), generation: Generation(1), chunk: 0, chunks: 1 } })
}
fn stats(name: &str, mut v: Vec<Duration>) {
    v.sort();
    if v.is_empty() {
        println!("{name}: none");
        return;
    }
    println!("{name}: n={} p50={:?} p99={:?} max={:?}", v.len(), v[v.len() / 2], v[v.len() * 99 / 100], v[v.len() - 1]);
}
async fn searches(sink: &Embedded, n: usize, rng: &mut StdRng) -> Vec<Duration> {
    let mut v = vec![];
    for _ in 0..n {
        let r = SearchRequest { vector: vector(rng), limit: 5, filter: Filter::default() };
        let t = Instant::now();
        assert_eq!(sink.search(r).await.unwrap().len(), 5);
        v.push(t.elapsed());
    }
    v
}
#[tokio::main]
async fn main() {
    let total: u64 = std::env::args().nth(1).map_or(20_000, |s| s.parse().unwrap());
    let root = tempfile::tempdir_in("/tmp").unwrap();
    let spec =
        CollectionSpec { name: "c".into(), dimension: DIM, fingerprint: Fingerprint::of(&["m"]), indexes: vec![] };
    let mut rng = StdRng::seed_from_u64(1);
    println!("rss before {:?}", rss());
    let sink = Embedded::open(root.path(), spec.clone()).unwrap();
    let (mut spent, mut gen_) = (Duration::ZERO, vec![]);
    for first in (0..total).step_by(256) {
        let batch: Vec<_> = (first..(first + 256).min(total)).map(|id| pt(id, &mut rng)).collect();
        let t = Instant::now();
        sink.write(batch).await.unwrap();
        spent += t.elapsed();
        gen_.push(t.elapsed());
    }
    println!("{total} points in {spent:?}: {:.0}/s", total as f64 / spent.as_secs_f64());
    stats("batch", gen_);
    let mut one = vec![];
    for id in 0..200 {
        let t = Instant::now();
        sink.write(vec![pt(id, &mut rng)]).await.unwrap();
        one.push(t.elapsed());
    }
    stats("single write", one);
    println!("rss {:?}", rss());
    stats("search brute", searches(&sink, 200, &mut rng).await);
    println!("rss after searches {:?}", rss());
    // search beside bulk
    let bulk = tokio::spawn({
        let sink = sink.clone();
        let mut rng = StdRng::seed_from_u64(2);
        async move {
            for k in 0..40u64 {
                let b: Vec<_> = (k * 256..(k + 1) * 256).map(|id| pt(id % total, &mut rng)).collect();
                sink.write(b).await.unwrap();
            }
        }
    });
    let mut v = vec![];
    while !bulk.is_finished() {
        v.extend(searches(&sink, 1, &mut rng).await);
    }
    stats("search beside bulk", v);
    bulk.await.unwrap();
    let t = Instant::now();
    let build = tokio::spawn({
        let sink = sink.clone();
        async move { sink.optimize().await.unwrap() }
    });
    let mut s = vec![];
    let mut w = vec![];
    let mut id = 0;
    while !build.is_finished() {
        s.extend(searches(&sink, 1, &mut rng).await);
        let p = pt(id, &mut rng);
        id += 1;
        let t = Instant::now();
        sink.write(vec![p]).await.unwrap();
        w.push(t.elapsed());
    }
    build.await.unwrap();
    println!("optimize {:?}", t.elapsed());
    stats("search during", s);
    stats("write during", w);
    println!("rss {:?}", rss());
    stats("search indexed", searches(&sink, 200, &mut rng).await);
    let mut one = vec![];
    for id in 0..200 {
        let t = Instant::now();
        sink.write(vec![pt(id, &mut rng)]).await.unwrap();
        one.push(t.elapsed());
    }
    stats("single write after", one);
    let t = Instant::now();
    println!("count {} {:?}", sink.count().await.unwrap(), t.elapsed());
    sink.close().await.unwrap();
    println!("rss closed {:?}", rss());
    let t = Instant::now();
    let sink = Embedded::open(root.path(), spec).unwrap();
    println!("open {:?} rss {:?}", t.elapsed(), rss());
    stats("search reopened", searches(&sink, 200, &mut rng).await);
    println!("rss {:?}", rss());
    let t = Instant::now();
    let n = sink.sweep(&TableName::new("public", "books"), Generation(2)).await.unwrap();
    println!("sweep {n} {:?}", t.elapsed());
    let du = std::process::Command::new("du").args(["-sm", "--apparent-size"]).arg(root.path()).output().unwrap();
    println!("apparent {}", String::from_utf8_lossy(&du.stdout));
    let du = std::process::Command::new("du").args(["-sm"]).arg(root.path()).output().unwrap();
    println!("disk {}", String::from_utf8_lossy(&du.stdout));
}
