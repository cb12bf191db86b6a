//! Graphs: work with an order, captured from streams and launched as one.

use super::Process;
use super::work::{self, Work};

/// A node of a graph.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) work: Work,
    pub(crate) after: Vec<usize>,
    pub(crate) handle: usize,
}

/// A graph that is being made or was captured. Nodes stand in an order that respects their edges.
#[derive(Clone, Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
}

/// An instantiated graph: the nodes' work, in order. The simulated GPU runs them one after the other.
pub(crate) struct Executable {
    steps: Vec<Work>,
}

impl Executable {
    pub(crate) fn new(graph: &Graph) -> Self {
        Self { steps: graph.nodes.iter().map(|node| node.work.clone()).collect() }
    }

    /// Runs all of it on the calling worker thread; returns when the last node ended.
    pub(crate) fn perform(&self, ready_ns: u64, process: &Process) -> u64 {
        self.steps.iter().fold(ready_ns, |at_ns, step| work::perform(step, at_ns, process))
    }
}
