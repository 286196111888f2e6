//! The graph before its sources are known.
//!
//! Which files of the build context are needed is only known when every stage has been looked at, but
//! stages build on the context. So stages make *plans*: nodes that refer to earlier nodes and are
//! turned into vertices, in order, once the sources have been filled in. A node is always made after
//! the nodes that it uses, so this is one pass without recursion.

use kiln_llb::Edge;

/// A node of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeId(usize);

/// A file system of a stage: `None` is the empty one.
pub(crate) type Output = Option<NodeId>;

type Make = Box<dyn FnOnce(&Made<'_>) -> Option<Edge> + Send>;

enum Node {
    Ready(Option<Edge>),
    Make(Make),
}

/// All nodes.
#[derive(Default)]
pub(crate) struct Plan(Vec<Node>);

/// Nodes that are made.
pub(crate) struct Made<'a>(&'a [Option<Edge>]);

impl Made<'_> {
    /// The edge of a node.
    pub(crate) fn edge(&self, output: Output) -> Option<Edge> {
        self.0.get(output?.0).cloned().flatten()
    }
}

impl Plan {
    /// A node whose edge is known.
    pub(crate) fn ready(&mut self, edge: Option<Edge>) -> NodeId {
        self.0.push(Node::Ready(edge));
        NodeId(self.0.len() - 1)
    }

    /// A node whose edge will be told by [`Plan::fill`].
    pub(crate) fn later(&mut self) -> NodeId {
        self.ready(None)
    }

    /// Tells the edge of a node.
    pub(crate) fn fill(&mut self, node: NodeId, edge: Option<Edge>) {
        self.0[node.0] = Node::Ready(edge);
    }

    /// A node that is made of earlier ones.
    pub(crate) fn make(
        &mut self,
        make: impl FnOnce(&Made<'_>) -> Option<Edge> + Send + 'static,
    ) -> NodeId {
        self.0.push(Node::Make(Box::new(make)));
        NodeId(self.0.len() - 1)
    }

    /// Makes all nodes up to `outputs` and returns their edges.
    pub(crate) fn finish(self, outputs: &[Output]) -> Vec<Option<Edge>> {
        let last = outputs.iter().flatten().map(|node| node.0).max();
        let mut made: Vec<Option<Edge>> = Vec::new();
        for node in self.0.into_iter().take(last.map_or(0, |last| last + 1)) {
            let edge = match node {
                Node::Ready(edge) => edge,
                Node::Make(make) => make(&Made(&made)),
            };
            made.push(edge);
        }
        let made = Made(&made);
        outputs.iter().map(|output| made.edge(*output)).collect()
    }
}
