//! Every method against its formula, and what must hold of any.

use serde_json::{Value, json};
use truing_model::{SaveDtype, Weights};

use super::oracle::{self, DeltaMethod, Matrix, Scaling, Thinning};
use super::{Models, bits};

/// Compares a merge of `a`, `b` and `c` over `base` with an oracle, tensor by tensor.
fn check(models: &Models, recipe: Value, oracle: impl Fn(&Matrix, &[Matrix]) -> Vec<f64>) {
    let (merged, report) = models.merge(recipe.clone());
    let base = models.load("base");
    let others = ["a", "b", "c"].map(|name| models.load(name));
    assert_eq!(report.tensors.len(), merged.tensors.len());
    for (name, tensor) in &merged.tensors {
        let of = |weights: &Weights| Matrix::of(name, weights.get(name).unwrap());
        let expected = oracle(&of(&base), &others.each_ref().map(of));
        assert_eq!(expected.len(), tensor.values.len());
        for (i, (found, expected)) in tensor.values.iter().zip(&expected).enumerate() {
            let error = (f64::from(*found) - expected).abs();
            // Half a unit in the last place of the single result, and what double precision adds.
            assert!(
                error <= 6.1e-8 * expected.abs() + 1e-9,
                "{recipe}: {name}[{i}] is {found}, expected {expected}"
            );
        }
    }
}

fn recipe(method: &str, parameters: Value, weights: [f64; 3], per_model: Value) -> Value {
    let model = |(name, weight): (&str, f64)| {
        let mut parameters = per_model.clone();
        parameters["weight"] = json!(weight);
        json!({"model": name, "parameters": parameters})
    };
    let models: Vec<Value> = ["a", "b", "c"].into_iter().zip(weights).map(model).collect();
    json!({"method": method, "base_model": "base", "parameters": parameters, "models": models, "seed": 5})
}

const WEIGHTS: [f64; 3] = [0.5, 1.5, -0.25];
const POSITIVE: [f64; 3] = [0.5, 1.5, 0.25];

#[test]
fn sums_and_spheres_are_their_formulas() {
    let models = Models::llama();
    for normalize in [true, false] {
        let parameters = json!({"normalize": normalize});
        check(&models, recipe("linear", parameters, WEIGHTS, json!({})), |_, m| {
            oracle::linear(m, &WEIGHTS, normalize)
        });
    }
    let multi = recipe("multislerp", json!({}), POSITIVE, json!({}));
    check(&models, multi.clone(), |base, m| oracle::multi_slerp(Some(base), m, &POSITIVE));
    let mut without_base = multi;
    without_base.as_object_mut().unwrap().remove("base_model");
    check(&models, without_base, |_, m| oracle::multi_slerp(None, m, &POSITIVE));
}

#[test]
fn slerp_is_its_formula_near_and_far() {
    let models = Models::llama();
    // Another model altogether, at right angles in most tensors.
    let mut far = models.weights.clone();
    for (name, tensor) in &mut far.tensors {
        tensor.values = truing_types::Seed(7).normals(name, tensor.values.len(), 0.2);
    }
    models.save("far", &models.spec, &far, SaveDtype::F32);
    models.save("same", &models.spec, &models.weights, SaveDtype::F32);
    for (other, t) in [("far", 0.3), ("far", 1.0), ("a", 0.5), ("same", 0.25)] {
        let recipe = json!({"method": "slerp", "base_model": "base", "parameters": {"t": t}, "models": [{"model": other}]});
        let (_, report) = models.merge(recipe.clone());
        let matrix = report.tensors.iter().find(|tensor| tensor.name.contains("up_proj")).unwrap();
        let is_linear = matrix.figures.is_linear.unwrap();
        assert_eq!(is_linear, other == "same", "{other}");
        if other == "same" {
            continue;
        }
        let other = Matrix::of;
        let weights = models.load(recipe["models"][0]["model"].as_str().unwrap());
        check(&models, recipe, |base, _| {
            oracle::slerp(base, &other(&base.name, weights.get(&base.name).unwrap()), t)
        });
    }
}

#[test]
fn methods_on_deltas_are_their_formulas() {
    let models = Models::llama();
    let none = |thinning, elects, normalize| DeltaMethod {
        thinning,
        scaling: Scaling::Nothing,
        elects,
        normalize,
        lambda: 0.75,
        seed: 5,
    };
    let largest = Thinning::Largest { density: 0.3 };
    let between = Thinning::Between { density: 0.3, gamma: 0.05 };
    let random = Thinning::Random { density: 0.3 };
    let ranked = Thinning::Ranked { density: 0.3, epsilon: 0.2 };
    let scaled = |scaling, method: DeltaMethod| DeltaMethod { scaling, ..method };
    let cases = [
        ("task_arithmetic", json!({}), json!({}), none(Thinning::Nothing, false, false)),
        ("task_arithmetic", json!({"normalize": true}), json!({}), none(Thinning::Nothing, false, true)),
        ("ties", json!({}), json!({"density": 0.3}), none(largest, true, true)),
        (
            "ties",
            json!({"normalize": false, "rescale": "l1"}),
            json!({"density": 0.3}),
            scaled(Scaling::L1, none(largest, true, false)),
        ),
        ("ties", json!({}), json!({}), none(Thinning::Nothing, true, true)),
        (
            "dare_linear",
            json!({}),
            json!({"density": 0.3}),
            scaled(Scaling::Probability, none(random, false, false)),
        ),
        (
            "dare_linear",
            json!({"rescale": "l1"}),
            json!({"density": 0.3}),
            scaled(Scaling::L1, none(random, false, false)),
        ),
        ("dare_linear", json!({"rescale": "none"}), json!({"density": 0.3}), none(random, false, false)),
        (
            "dare_ties",
            json!({}),
            json!({"density": 0.3}),
            scaled(Scaling::Probability, none(random, true, false)),
        ),
        (
            "della",
            json!({}),
            json!({"density": 0.3, "epsilon": 0.2}),
            scaled(Scaling::Probability, none(ranked, true, true)),
        ),
        (
            "della_linear",
            json!({"rescale": "l1"}),
            json!({"density": 0.3, "epsilon": 0.2}),
            scaled(Scaling::L1, none(ranked, false, false)),
        ),
        ("breadcrumbs", json!({}), json!({"density": 0.3, "gamma": 0.05}), none(between, false, false)),
        ("breadcrumbs_ties", json!({}), json!({"density": 0.3, "gamma": 0.05}), none(between, true, false)),
    ];
    for (method, mut shared, own, oracle) in cases {
        shared["lambda"] = json!(0.75);
        // A negative weight turns a model's votes around.
        for weights in [POSITIVE, WEIGHTS] {
            let recipe = recipe(method, shared.clone(), weights, own.clone());
            check(&models, recipe, |base, m| oracle.merge(base, m, &weights));
        }
    }
}

#[test]
fn model_stock_is_its_formula_and_reports_angle_and_ratio() {
    let models = Models::llama();
    for row_wise in [false, true] {
        let recipe = json!({
            "method": "model_stock", "base_model": "base", "parameters": {"row_wise": row_wise},
            "models": [{"model": "a"}, {"model": "b"}, {"model": "c"}, {"model": "base"}],
        });
        check(&models, recipe.clone(), |base, m| oracle::model_stock(base, m, row_wise).0);
        let (_, report) = models.merge(recipe);
        let base = models.load("base");
        let others = ["a", "b", "c"].map(|name| models.load(name));
        for tensor in &report.tensors {
            let of = |weights: &Weights| Matrix::of(&tensor.name, weights.get(&tensor.name).unwrap());
            let (_, c, t) = oracle::model_stock(&of(&base), &others.each_ref().map(of), row_wise);
            let figures = &tensor.figures;
            assert!((figures.cosine.unwrap() - c).abs() < 1e-12, "{}", tensor.name);
            assert!((figures.ratio.unwrap() - t).abs() < 1e-12, "{}", tensor.name);
            // Half of the noise is shared: the cosine is near a half, and t near 3/4.
            assert!((0.2..0.8).contains(&c), "{}: {c}", tensor.name);
        }
    }
}

#[test]
fn model_stock_keeps_the_base_where_updates_oppose_each_other() {
    let models = Models::llama();
    // Deltas d and -d + a little: the formula's denominator is 1 + c, nearly 0.
    let mut opposite = models.weights.clone();
    let a = models.load("a");
    for (name, tensor) in &mut opposite.tensors {
        let delta = a.get(name).unwrap().values.iter().zip(&tensor.values).map(|(a, base)| a - base);
        let delta: Vec<f32> = delta.collect();
        let noise = truing_types::Seed(8).normals(name, delta.len(), 1e-4);
        tensor
            .values
            .iter_mut()
            .zip(delta)
            .zip(noise)
            .for_each(|((value, delta), noise)| *value += noise - delta);
    }
    models.save("opposite", &models.spec, &opposite, SaveDtype::F32);
    let recipe = json!({"method": "model_stock", "base_model": "base", "models": [{"model": "a"}, {"model": "opposite"}]});
    let (merged, report) = models.merge(recipe);
    assert_eq!(bits(&merged), bits(&models.load("base")));
    for tensor in &report.tensors {
        assert!(tensor.figures.cosine.unwrap() < -0.99, "{}", tensor.name);
        assert_eq!((tensor.figures.ratio, tensor.figures.share_guarded), (Some(0.0), Some(1.0)));
    }
}

/// Merging a model with itself gives the model, bit for bit; a weight of 0 is as if the model was not there.
#[test]
fn what_changes_nothing_changes_no_bit() {
    let models = Models::new("qwen3");
    let [base, a] = ["base", "a"].map(|name| models.load(name));
    let twice = |weights: [f64; 2]| {
        let model = |weight: f64| json!({"model": "a", "parameters": {"weight": weight}});
        weights.map(model)
    };
    let same = [
        json!({"method": "linear", "models": twice([0.3, 0.4])}),
        json!({"method": "multislerp", "models": [{"model": "a"}]}),
        json!({"method": "task_arithmetic", "base_model": "base", "models": [{"model": "a"}]}),
        json!({"method": "task_arithmetic", "base_model": "base", "models": twice([0.25, 0.75])}),
        json!({"method": "ties", "base_model": "base", "models": twice([0.25, 0.5])}),
        json!({"method": "dare_ties", "base_model": "base", "parameters": {"density": 1}, "models": [{"model": "a"}]}),
        json!({"method": "breadcrumbs", "base_model": "base", "parameters": {"density": 1}, "models": [{"model": "a"}]}),
        json!({"method": "slerp", "base_model": "base", "parameters": {"t": 1}, "models": [{"model": "a"}]}),
        json!({"method": "passthrough", "models": [{"model": "a"}]}),
        json!({"method": "linear", "models": [{"model": "a"}, {"model": "b", "parameters": {"weight": 0}}]}),
        json!({"method": "task_arithmetic", "base_model": "base",
               "models": [{"model": "a"}, {"model": "b", "parameters": {"weight": 0}}]}),
        json!({"method": "ties", "base_model": "base",
               "models": [{"model": "a"}, {"model": "b", "parameters": {"weight": 0}}]}),
    ];
    for recipe in same {
        let (merged, _) = models.merge(recipe.clone());
        assert_eq!(bits(&merged), bits(&a), "{recipe}");
    }
    for recipe in [
        json!({"method": "slerp", "base_model": "base", "parameters": {"t": 0}, "models": [{"model": "a"}]}),
        json!({"method": "task_arithmetic", "base_model": "base", "parameters": {"lambda": 0}, "models": [{"model": "a"}]}),
        json!({"method": "ties", "base_model": "base", "parameters": {"weight": 0}, "models": [{"model": "a"}]}),
    ] {
        let (merged, _) = models.merge(recipe.clone());
        assert_eq!(bits(&merged), bits(&base), "{recipe}");
    }
}

#[test]
fn the_order_of_models_does_not_matter_where_no_model_is_special() {
    let models = Models::llama();
    for method in ["linear", "task_arithmetic", "ties", "breadcrumbs_ties", "model_stock", "multislerp"] {
        let merged = |names: [&str; 3]| {
            let list: Vec<Value> = names.iter().map(|name| json!({"model": name})).collect();
            let density = if method.contains("ties") { json!({"density": 0.5}) } else { json!({}) };
            models
                .merge(json!({"method": method, "base_model": "base", "parameters": density, "models": list}))
                .0
        };
        let (first, second) = (merged(["a", "b", "c"]), merged(["c", "a", "b"]));
        for (name, tensor) in &first.tensors {
            for (x, y) in tensor.values.iter().zip(&second.get(name).unwrap().values) {
                assert!((x - y).abs() <= 1.2e-7 * x.abs(), "{method} {name}: {x} {y}");
            }
        }
    }
}

#[test]
fn dropped_shares_and_sign_conflicts_are_reported() {
    let models = Models::llama();
    let list = json!([{"model": "a", "parameters": {"density": 0.25}}, {"model": "b", "parameters": {"density": 0.5}}]);
    let (_, report) = models.merge(json!({"method": "ties", "base_model": "base", "models": list}));
    for tensor in &report.tensors {
        let n = tensor.n_values() as f64;
        assert!((tensor.figures.kept[0] - (0.25 * n).floor() / n).abs() < 1e-12, "{:?}", tensor.figures);
        assert!((tensor.figures.kept[1] - (0.5 * n).floor() / n).abs() < 1e-12, "{:?}", tensor.figures);
        let conflicts = tensor.figures.sign_conflicts.unwrap();
        assert!((0.0..0.5).contains(&conflicts), "{conflicts}");
        assert!(conflicts > 0.0 || tensor.shape.len() == 1, "{}", tensor.name);
        assert_eq!(tensor.models, [models.path("a"), models.path("b")]);
    }
    let (merged, report) = models.merge(json!({
        "method": "dare_linear", "base_model": "base", "parameters": {"density": 0.25, "rescale": "none"},
        "models": [{"model": "a"}],
    }));
    let (base, a) = (models.load("base"), models.load("a"));
    for tensor in &report.tensors {
        let values = |weights: &Weights| weights.get(&tensor.name).unwrap().values.clone();
        let (merged, base, a) = (values(&merged), values(&base), values(&a));
        let is_kept = |i: &usize| merged[*i].to_bits() == a[*i].to_bits();
        let n_kept = (0..merged.len()).filter(is_kept).count();
        assert!((0..merged.len()).all(|i| is_kept(&i) || merged[i].to_bits() == base[i].to_bits()));
        assert!((n_kept as f64 / merged.len() as f64 - tensor.figures.kept[0]).abs() < 1e-3);
        // Five standard deviations of a binomial share.
        let bound = 5.0 * (0.25 * 0.75 / merged.len() as f64).sqrt();
        assert!((tensor.figures.kept[0] - 0.25).abs() < bound, "{}: {:?}", tensor.name, tensor.figures.kept);
    }
}

/// The same entries are kept whatever the shards, and other ones with another seed.
#[test]
fn random_choices_follow_from_seed_tensor_and_row_alone() {
    let models = Models::llama();
    let recipe = |seed: u64, shard: u64, first: &str| {
        json!({"method": "dare_ties", "base_model": "base", "seed": seed, "max_shard_size": shard,
               "parameters": {"density": 0.5}, "models": [{"model": first}, {"model": "b"}]})
    };
    let whole = models.merge(recipe(1, 1 << 30, "a")).0;
    let sharded = models.merge(recipe(1, 10_000, "a")).0;
    assert_eq!(bits(&whole), bits(&sharded));
    assert_ne!(bits(&whole), bits(&models.merge(recipe(2, 1 << 30, "a")).0));
}

#[test]
fn equal_magnitudes_at_the_threshold_are_all_kept() {
    let models = Models::llama();
    // Every delta is 1/8 or 1/4: a quarter of the entries is larger, and the threshold for a half lies among equal ones.
    let mut coarse = models.weights.clone();
    for tensor in coarse.tensors.values_mut() {
        for (i, value) in tensor.values.iter_mut().enumerate() {
            *value = 1.0 + if i % 4 == 0 { 0.25 } else { 0.125 };
        }
    }
    let mut ones = coarse.clone();
    ones.tensors.values_mut().for_each(|tensor| tensor.values.fill(1.0));
    models.save("ones", &models.spec, &ones, SaveDtype::F32);
    models.save("coarse", &models.spec, &coarse, SaveDtype::F32);
    for (density, kept) in [(0.2, 0.25), (0.5, 1.0)] {
        let recipe = json!({"method": "ties", "base_model": "ones", "parameters": {"density": density},
                            "models": [{"model": "coarse"}]});
        let (_, report) = models.merge(recipe);
        for tensor in report.tensors.iter().filter(|tensor| tensor.n_values() % 4 == 0) {
            assert_eq!(tensor.figures.kept, [kept], "{}", tensor.name);
        }
    }
}
