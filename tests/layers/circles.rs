//! What can't be told apart in a graph because each of it reaches each other.

use std::collections::{BTreeMap, BTreeSet};

/// Edges by their beginning.
pub(crate) type Graph = BTreeMap<String, BTreeSet<String>>;

/// Returns the sets of more than one node whose nodes all reach each other, largest first.
pub(crate) fn circles(graph: &Graph) -> Vec<BTreeSet<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> = graph
        .keys()
        .map(|node| (node, reached_from(graph, node)))
        .collect();
    let mut circles = BTreeSet::new();
    for (node, others) in &reached {
        let reaches_back =
            |other: &&&String| reached.get(**other).is_some_and(|back| back.contains(node));
        let circle: BTreeSet<String> = others
            .iter()
            .filter(reaches_back)
            .map(|other| (*other).clone())
            .collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    let mut circles: Vec<_> = circles.into_iter().collect();
    circles.sort_by_key(|circle| usize::MAX - circle.len());
    circles
}

fn reached_from<'a>(graph: &'a Graph, start: &'a String) -> BTreeSet<&'a String> {
    let mut reached = BTreeSet::new();
    let mut next = vec![start];
    while let Some(node) = next.pop() {
        for other in graph.get(node).into_iter().flatten() {
            if reached.insert(other) {
                next.push(other);
            }
        }
    }
    reached
}
