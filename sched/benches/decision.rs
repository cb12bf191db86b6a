//! What a decision costs among 1,024 clients that all want: `cargo bench -p aischedd`. Asked for are 5 us.

use std::hint::black_box;

use aischedd::policy::{ClientId, Event, Gpu, Kind, Member, Priority, TURN_NS, Weight};
use criterion::{Criterion, criterion_group, criterion_main};

const CLIENTS: u32 = 1_024;

fn client(index: u64) -> ClientId {
    // A prime, so that successive events are about clients far apart.
    ClientId { slot: (index * 7_919 % u64::from(CLIENTS)) as u32, generation: 1 }
}

fn full(kind: Kind) -> Gpu {
    let mut gpu = Gpu::new(kind);
    let mut decisions = Vec::new();
    for index in 0..u64::from(CLIENTS) {
        let client = client(index);
        let priority = Priority::new(client.slot as u8 % 4 * 20).unwrap_or(Priority::MAX);
        let member = Member { priority, weight: Weight::NORMAL, job: None };
        gpu.decide(0, Event::Joined { client, member }, &mut decisions);
        gpu.decide(0, Event::Wanting { client }, &mut decisions);
    }
    gpu
}

fn decisions(c: &mut Criterion) {
    for kind in Kind::all() {
        let mut group = c.benchmark_group(format!("{CLIENTS} clients, {}", kind.name()));
        type Events = fn(ClientId) -> [Event; 2];
        let pairs: [(&str, Events); 2] = [
            ("used, time passed", |client| [Event::Used { client, gpu_ns: TURN_NS }, Event::TimePassed]),
            ("idle, wanting", |client| [Event::Idle { client }, Event::Wanting { client }]),
        ];
        for (name, events) in pairs {
            let (mut gpu, mut out, mut index) = (full(kind), Vec::new(), 0);
            // Each iteration is two decisions.
            group.bench_function(name, |b| {
                b.iter(|| {
                    index += 1;
                    for event in events(client(index)) {
                        out.clear();
                        gpu.decide(index * TURN_NS, black_box(event), &mut out);
                        black_box(&out);
                    }
                });
            });
        }
        group.bench_function("switch", |b| {
            let (mut gpu, mut out) = (full(kind), Vec::new());
            b.iter(|| {
                out.clear();
                gpu.decide(0, Event::Switched { to: kind }, &mut out);
            });
        });
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
