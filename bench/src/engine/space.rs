//! Points with vectors that lie as those of texts do.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use walvec_model::{Fingerprint, Generation, InputHash, Lsn, Payload, Point, PointId, Position, Provenance, Value};

use super::DIMENSION;

/// The dimensions of the space from which vectors are made. Vectors of texts lie near a surface of few dimensions, and in
/// clusters; independent random numbers would have no near neighbours.
const LATENT: usize = 24;

const CROWDS: usize = 200;

/// The space from which vectors are made.
pub(super) struct Space {
    basis: Vec<Vec<f32>>,
    crowds: Vec<Vec<f32>>,
}

impl Space {
    pub(super) fn new() -> Self {
        let mut random = StdRng::seed_from_u64(7);
        let mut normals = |count| (0..count).map(|_| normal(&mut random)).collect();
        Self {
            basis: (0..LATENT).map(|_| normals(DIMENSION)).collect(),
            crowds: (0..CROWDS).map(|_| normals(LATENT)).collect(),
        }
    }

    pub(super) fn vector(&self, seed: u64) -> Vec<f32> {
        let mut random = StdRng::seed_from_u64(seed);
        let crowd = &self.crowds[random.random_range(0..CROWDS)];
        let mut vector: Vec<f32> = (0..DIMENSION).map(|_| 0.3 * random.random_range(-1.0_f32..1.0)).collect();
        for (direction, centre) in self.basis.iter().zip(crowd) {
            let along = centre + 0.7 * normal(&mut random);
            vector.iter_mut().zip(direction).for_each(|(number, part)| *number += along * part);
        }
        let length = vector.iter().map(|number| number * number).sum::<f32>().sqrt();
        vector.iter_mut().for_each(|number| *number /= length);
        vector
    }

    pub(super) fn point(&self, id: u64) -> Point {
        let fields = json!({ "number": id, "title": format!("the title of {id}"), "text": "some words ".repeat(15) });
        let payload: Payload = if let Value::Object(fields) = fields { fields } else { Payload::new() };
        let provenance = Provenance {
            position: Position { commit_lsn: Lsn(100), ordinal: id },
            table: "public.bench".to_owned(),
            key: vec![json!(id)],
            input_hash: InputHash::of("a text"),
            fingerprint: Fingerprint::of(&["bench"]),
            generation: Generation(1),
            chunk: 0,
            chunks: 1,
        };
        Point { id: PointId::Num(id), vector: self.vector(id), keywords: None, payload, provenance }
    }
}

/// Returns a random number, approximately from a normal distribution of variance 1.
fn normal(random: &mut StdRng) -> f32 {
    (0..6).map(|_| random.random_range(-1.0_f32..1.0)).sum::<f32>() / std::f32::consts::SQRT_2
}
