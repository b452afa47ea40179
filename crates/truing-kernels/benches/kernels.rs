//! Rates of the kernels on the shapes of SmolLM2-135M, as shares of a peak measured between them.
//!
//! `cargo bench -p truing-kernels --bench kernels [-- FILTER... [--threads N] [--seconds S]]`
//!
//! Each line is the best of many runs; the peak is measured again before each group, as clocks move.

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]

use std::time::Instant;
use truing_kernels::*;

struct Bench {
    filters: Vec<String>,
    seconds: f64,
    peak: f64,
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str()))
    }

    /// Runs `work` until the time is used, at least three times; prints the best.
    fn run(&self, name: &str, operations: f64, bytes: f64, mut work: impl FnMut()) {
        if !self.wants(name) {
            return;
        }
        work();
        let (mut best, mut total, mut n_runs) = (f64::INFINITY, 0.0, 0);
        while n_runs < 3 || (total < self.seconds && n_runs < 1000) {
            let started = Instant::now();
            work();
            let seconds = started.elapsed().as_secs_f64();
            best = best.min(seconds);
            total += seconds;
            n_runs += 1;
        }
        let rate = operations / best / 1e9;
        println!(
            "{name:<44} {:>9.3} ms  {rate:>7.1} GFLOP/s  {:>5.1} %  {:>6.1} GB/s",
            best * 1e3,
            100.0 * rate / self.peak,
            bytes / best / 1e9
        );
    }
}

fn numbers(n: usize) -> Vec<f32> {
    let mut numbers = zeroed(n);
    numbers.iter_mut().enumerate().for_each(|(i, x)| *x = ((i * 7919 % 2003) as f32 / 1001.5 - 1.0) * 0.1);
    numbers
}

fn main() {
    let mut bench = Bench { filters: vec![], seconds: 0.3, peak: 0.0 };
    let mut n_threads = 0;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => {}
            "--threads" => n_threads = arguments.next().and_then(|n| n.parse().ok()).expect("--threads N"),
            "--seconds" => {
                bench.seconds = arguments.next().and_then(|s| s.parse().ok()).expect("--seconds S")
            }
            _ => bench.filters.push(argument),
        }
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().expect("a thread pool");
    pool.install(|| {
        for group in [products, decode, vocabulary, attention, small] {
            bench.peak = measure_peak_gflops();
            println!(
                "-- {} threads, {}, peak {:.1} GFLOP/s, bf16 ({}) {:.1}",
                rayon::current_num_threads(),
                SimdLevel::current(),
                bench.peak,
                Bf16Products::current(),
                measure_bf16_peak_gflops(),
            );
            group(&bench);
        }
    });
}

/// `[out, in]` of a layer's weights.
const WEIGHTS: [(usize, usize); 4] = [(576, 576), (192, 576), (1536, 576), (576, 1536)];

fn products(bench: &Bench) {
    for tokens in [64, 512, 1024, 2048, 4096] {
        for (n_out, n_in) in WEIGHTS {
            let operations = 2.0 * (tokens * n_out * n_in) as f64;
            let bytes = 4.0 * (tokens * n_out + n_out * n_in + tokens * n_in) as f64;
            let (x, dy, w) = (numbers(tokens * n_in), numbers(tokens * n_out), numbers(n_out * n_in));
            let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), w.clone());
            let x = MatrixRef::new(&x, tokens, n_in);
            let dy = MatrixRef::new(&dy, tokens, n_out);
            let w = MatrixRef::new(&w, n_out, n_in);
            let name = |product: &str| format!("matmul {product} t={tokens} [{n_out},{n_in}]");
            bench.run(&name("y=xWt"), operations, bytes, || {
                matmul(x, w.transposed(), &mut y, Write::Overwrite)
            });
            bench.run(&name("dx=dyW"), operations, bytes, || matmul(dy, w, &mut dx, Write::Overwrite));
            bench.run(&name("dW+=dytx"), operations, bytes, || {
                matmul(dy.transposed(), x, &mut dw, Write::Add)
            });
            let mut rounded = Bf16Matrix::new(n_out, n_in);
            rounded.round(&numbers(n_out * n_in));
            let weight = Weight::Bf16(&rounded);
            let name = |product: &str| format!("bf16 {product} t={tokens} [{n_out},{n_in}]");
            bench.run(&name("y=xWt"), operations, bytes, || {
                weight.forward(x, &mut y, Write::Overwrite, Epilogue::Nothing)
            });
            bench.run(&name("dx=dyW"), operations, bytes, || {
                weight.backward_input(dy, &mut dx, Write::Overwrite)
            });
            bench.run(&name("dW+=dytx"), operations, bytes, || weight.add_gradient(dy, x, &mut dw));
        }
    }
}

fn decode(bench: &Bench) {
    for (n_out, n_in) in WEIGHTS.into_iter().chain([(49152, 576)]) {
        // Enough copies that none is still in a cache when its turn comes again.
        let n_copies = (200 << 20) / (4 * n_out * n_in) + 1;
        let weights = numbers(n_copies * n_out * n_in);
        let n_int8_copies = (200 << 20) / Int8Matrix::bytes(n_out, n_in) + 1;
        let mut int8_weights = vec![Int8Matrix::new(n_out, n_in); n_int8_copies];
        let name = format!("compress [{n_out},{n_in}] x {n_int8_copies}");
        let bytes = n_int8_copies * (4 * n_out * n_in + Int8Matrix::bytes(n_out, n_in));
        bench.run(&name, 0.0, bytes as f64, || {
            for (matrix, weight) in int8_weights.iter_mut().zip(weights.chunks_exact(n_out * n_in).cycle()) {
                matrix.compress(weight);
            }
        });
        let n_bf16_copies = (200 << 20) / Bf16Matrix::bytes(n_out, n_in) + 1;
        let mut bf16_weights = vec![Bf16Matrix::new(n_out, n_in); n_bf16_copies];
        let bytes = n_bf16_copies * (4 * n_out * n_in + Bf16Matrix::bytes(n_out, n_in));
        bench.run(&format!("round to bf16 [{n_out},{n_in}] x {n_bf16_copies}"), 0.0, bytes as f64, || {
            for (matrix, weight) in bf16_weights.iter_mut().zip(weights.chunks_exact(n_out * n_in).cycle()) {
                matrix.round(weight);
            }
        });
        for tokens in [1, 2, 4, 6, 8, 16, 32, 64, 96] {
            let operations = 2.0 * (n_copies * tokens * n_out * n_in) as f64;
            let x = numbers(tokens * n_in);
            let mut y = vec![0.0; tokens * n_out];
            let name = format!("decode rows t={tokens} [{n_out},{n_in}] x {n_copies}");
            bench.run(&name, operations, 4.0 * weights.len() as f64, || {
                for weight in weights.chunks_exact(n_out * n_in) {
                    let weight = RowWeight::F32(weight);
                    let product = RowProduct { weight, y: &mut y, write: Write::Overwrite };
                    multiply_rows(&x, n_in, &mut [product]);
                }
            });
            let name = format!("decode bf16 rows t={tokens} [{n_out},{n_in}] x {n_bf16_copies}");
            let bytes = n_bf16_copies * Bf16Matrix::bytes(n_out, n_in);
            let bf16_operations = 2.0 * (n_bf16_copies * tokens * n_out * n_in) as f64;
            bench.run(&name, bf16_operations, bytes as f64, || {
                for weight in &bf16_weights {
                    let weight = RowWeight::Bf16(weight);
                    let product = RowProduct { weight, y: &mut y, write: Write::Overwrite };
                    multiply_rows(&x, n_in, &mut [product]);
                }
            });
            let name = format!("decode bf16 t={tokens} [{n_out},{n_in}] x {n_bf16_copies}");
            bench.run(&name, bf16_operations, bytes as f64, || {
                for weight in &bf16_weights {
                    let x = MatrixRef::new(&x, tokens, n_in);
                    Weight::Bf16(weight).forward(x, &mut y, Write::Overwrite, Epilogue::Nothing);
                }
            });
            let name = format!("decode int8 rows t={tokens} [{n_out},{n_in}] x {n_int8_copies}");
            let bytes = n_int8_copies * Int8Matrix::bytes(n_out, n_in);
            let int8_operations = 2.0 * (n_int8_copies * tokens * n_out * n_in) as f64;
            bench.run(&name, int8_operations, bytes as f64, || {
                for weight in &int8_weights {
                    let weight = RowWeight::Int8(weight);
                    let product = RowProduct { weight, y: &mut y, write: Write::Overwrite };
                    multiply_rows(&x, n_in, &mut [product]);
                }
            });
            let x = MatrixRef::new(&x, tokens, n_in);
            let name = format!("decode t={tokens} [{n_out},{n_in}] x {n_copies}");
            bench.run(&name, operations, 4.0 * weights.len() as f64, || {
                for w in weights.chunks_exact(n_out * n_in) {
                    matmul(x, MatrixRef::new(w, n_out, n_in).transposed(), &mut y, Write::Overwrite);
                }
            });
        }
    }
}

fn vocabulary(bench: &Bench) {
    let (vocab, h) = (49152, 576);
    let head = numbers(vocab * h);
    let mut rounded = Bf16Matrix::new(vocab, h);
    rounded.round(&head);
    for c in [64, 128, 160] {
        let operations = 2.0 * (c * vocab * h) as f64;
        let d_logits = numbers(vocab * c);
        let mut d_hidden = vec![0.0; c * h];
        let d_logits = MatrixRef::new(&d_logits, vocab, c);
        let head = MatrixRef::new(&head, vocab, h);
        bench.run(
            &format!("matmul d_hidden=d_logits head t={c}"),
            operations,
            4.0 * (vocab * h) as f64,
            || {
                matmul(d_logits.transposed(), head, &mut d_hidden, Write::Overwrite);
            },
        );
    }
    let mut d_head = zeroed(vocab * h);
    for n in [64, 512, 1024] {
        let operations = 2.0 * (n * vocab * h) as f64;
        let hidden = numbers(n * h);
        let targets: Vec<u32> = (0..n).map(|i| (i * 31 % vocab) as u32).collect();
        let d = vec![1.0; n];
        let (mut log_probs, mut entropies, mut is_argmax) = (vec![0.0; n], vec![0.0; n], vec![false; n]);
        let mut d_hidden = vec![0.0; n * h];
        macro_rules! rows {
            () => {
                LogProbRows {
                    log_probs: &mut log_probs,
                    entropies: &mut entropies,
                    is_argmax: &mut is_argmax,
                }
            };
        }
        bench.run(&format!("linear_log_probs forward n={n}"), operations, 0.0, || {
            linear_log_probs_forward(&hidden, &head, &targets, rows!());
        });
        bench.run(&format!("linear_log_probs backward n={n}"), 3.0 * operations, 0.0, || {
            linear_log_probs_backward(
                &hidden,
                &head,
                &targets,
                &d,
                rows!(),
                &mut d_hidden,
                Some(&mut d_head),
            );
        });
        bench.run(&format!("linear_log_probs bf16 forward n={n}"), operations, 0.0, || {
            linear_log_probs_forward(&hidden, &rounded, &targets, rows!());
        });
        bench.run(&format!("linear_log_probs bf16 backward n={n}"), 3.0 * operations, 0.0, || {
            linear_log_probs_backward(
                &hidden,
                &rounded,
                &targets,
                &d,
                rows!(),
                &mut d_hidden,
                Some(&mut d_head),
            );
        });
        bench.run(&format!("linear_log_probs backward, frozen head n={n}"), 2.0 * operations, 0.0, || {
            linear_log_probs_backward(&hidden, &head, &targets, &d, rows!(), &mut d_hidden, None);
        });
    }
}

fn attention(bench: &Bench) {
    let shape = AttentionShape {
        n_heads: 9,
        n_kv_heads: 3,
        head_dim: 64,
        scale: 0.125,
        causality: Causality::Causal,
        sliding_window: None,
        soft_cap: None,
    };
    for lengths in [vec![64; 16], vec![256; 4], vec![512], vec![1024], vec![2048], vec![4096]] {
        let total: usize = lengths.iter().sum();
        let mut ends = vec![0u32];
        lengths.iter().for_each(|&len| ends.push(ends[ends.len() - 1] + len as u32));
        let pairs: usize = lengths.iter().map(|len| len * (len + 1) / 2).sum();
        // Two products of head_dim a visible pair and head forward, five backward.
        let operations = 2.0 * (pairs * shape.n_heads * shape.head_dim) as f64;
        let (q, k, v) = (numbers(total * 576), numbers(total * 192), numbers(total * 192));
        let (mut out, mut lse) = (q.clone(), vec![0.0; total * 9]);
        let (mut d_q, mut d_k, mut d_v) = (q.clone(), k.clone(), v.clone());
        let name = |pass: &str| format!("attention {pass} {} x {}", lengths.len(), lengths[0]);
        varlen_attention_forward(&shape, &ends, &q, &k, &v, &mut out, &mut lse);
        bench.run(&name("forward"), 2.0 * operations, 0.0, || {
            varlen_attention_forward(&shape, &ends, &q, &k, &v, &mut out, &mut lse);
        });
        let d_out = q.clone();
        bench.run(&name("backward"), 5.0 * operations, 0.0, || {
            varlen_attention_backward(
                &shape, &ends, &q, &k, &v, &out, &lse, &d_out, &mut d_q, &mut d_k, &mut d_v,
            );
        });
    }
    for len in [256, 2048] {
        let (k, v) = (numbers(len * 192), numbers(len * 192));
        let mut blocks = vec![CacheBlock::new(192, 64); len / CACHE_BLOCK];
        for (i, (k, v)) in k.chunks_exact(192).zip(v.chunks_exact(192)).enumerate() {
            blocks[i / CACHE_BLOCK].write(i % CACHE_BLOCK, k, v);
        }
        let sequence = CachedSequence { blocks: blocks.iter().collect(), len };
        let (q, operations, bytes) = (numbers(576), (4 * len * 576) as f64, (8 * len * 192) as f64);
        bench.run(&format!("attention decoding 1 of {len}"), operations, bytes, || {
            decode_attention(&shape, std::slice::from_ref(&sequence), &q, &mut q.clone());
        });
        for n_new in [64, 256] {
            let q = numbers(n_new * 576);
            let mut out = q.clone();
            let pairs = n_new * len - n_new * (n_new - 1) / 2;
            let operations = 4.0 * (pairs * 576) as f64;
            let bytes = 4.0 * (2 * len * 192) as f64;
            bench.run(&format!("attention cached {n_new} new of {len}"), operations, bytes, || {
                cached_attention(&shape, &q, &k, &v, &mut out);
            });
        }
    }
}

fn small(bench: &Bench) {
    let (t, h, m) = (1024, 576, 1536);
    let floats = |n: usize| 4.0 * n as f64;
    let (x, weight) = (numbers(t * h), numbers(h));
    let (mut y, mut d_weight) = (x.clone(), weight.clone());
    bench.run("rms_norm forward t=1024", 0.0, floats(2 * t * h), || {
        rms_norm_forward(&x, &weight, 1e-5, &mut y)
    });
    bench.run("rms_norm backward t=1024", 0.0, floats(3 * t * h), || {
        rms_norm_backward(&x, &weight, 1e-5, &x, &mut y, Write::Add, Some(&mut d_weight));
    });
    let frequencies: Vec<f32> = (0..32).map(|i| 10_000f32.powf(-(i as f32) / 32.0)).collect();
    let table = RotaryTable::new(&frequencies, t, 1.0);
    let positions: Vec<u32> = (0..t as u32).collect();
    bench.run("rotary t=1024", 0.0, floats(2 * t * h), || rotary_forward(&table, &positions, &mut y, 9));
    let (gate, up) = (numbers(t * m), numbers(t * m));
    let (mut out, mut d_gate, mut d_up) = (gate.clone(), gate.clone(), gate.clone());
    bench.run("swiglu forward t=1024", 0.0, floats(3 * t * m), || swiglu_forward(&gate, &up, &mut out));
    bench.run("swiglu backward t=1024", 0.0, floats(5 * t * m), || {
        swiglu_backward(&gate, &up, &gate, &mut d_gate, &mut d_up);
    });
    let n = 20 << 20;
    if !["adamw", "sum_of_squares", "all_finite", "add_assign", "scatter"]
        .iter()
        .any(|name| bench.wants(name))
    {
        return;
    }
    let (mut p, g, mut m1, mut m2) = (numbers(n), numbers(n), numbers(n), vec![0.1; n]);
    let step = AdamwStep {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
        gradient_scale: 1.0,
        step: 7,
    };
    bench.run("adamw 20 Mi", 0.0, floats(7 * n), || adamw(&mut p, &g, &mut m1, &mut m2, &step));
    bench.run("sum_of_squares 20 Mi", 0.0, floats(n), || {
        std::hint::black_box(sum_of_squares(&g));
    });
    bench.run("all_finite 20 Mi", 0.0, floats(n), || {
        std::hint::black_box(all_finite(&g));
    });
    bench.run("add_assign 20 Mi", 0.0, floats(3 * n), || add_assign(&mut p, &g));
    let ids: Vec<u32> = (0..t).map(|i| (i * 131 % 30_000) as u32).collect();
    bench.run("scatter_add_rows t=1024", 0.0, floats(3 * t * h), || scatter_add_rows(&x, h, &ids, &mut p));
}
