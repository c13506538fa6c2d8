"""Random cuts through WordNet's tree over ImageNet's classes: one teacher, class sets of every granularity.

A teacher's probabilities over the 1000 leaves give, summed below its nodes, its probabilities over any cut. A student
that matches them on a new cut each step learns "dog" and "vehicle" as well as "beagle" and "minivan" [D].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retroclip.tasks.wordnet import Synset


@dataclass(frozen=True)
class Cut:
    """`nodes` are synset ids, disjoint in leaves; `membership` (leaves,) holds each leaf's node, -1 where left out."""

    nodes: list[str]
    membership: np.ndarray


class Hierarchy:
    """The tree over `leaves` by first hypernyms; a leaf that is an ancestor of another leaf is a leaf all the same."""

    def __init__(self, leaves: list[str], synsets: dict[str, Synset]):
        self.leaves = leaves
        self.position = {leaf: number for number, leaf in enumerate(leaves)}
        self.below: dict[str, list[int]] = {}
        self.children: dict[str, set[str]] = {}
        for number, leaf in enumerate(leaves):
            node = leaf
            self.below.setdefault(node, []).append(number)
            while synsets[node].hypernyms:
                parent = synsets[node].hypernyms[0]
                self.children.setdefault(parent, set()).add(node)
                self.below.setdefault(parent, []).append(number)
                node = parent
        self.root = node

    def cut(self, rng: np.random.Generator, *, always: int = 60) -> tuple[list[str], list[list[int]]]:
        """A random cut: node ids and the leaves of each. Nodes above `always` leaves are split; others by chance.

        The chance is drawn once a cut, so that coarse and fine cuts both come up.
        """
        split = rng.uniform(0.2, 1.0)
        nodes: list[str] = []
        members: list[list[int]] = []
        stack = [self.root]
        while stack:
            node = stack.pop()
            children = sorted(self.children.get(node, ()))
            if children and (len(self.below[node]) > always or rng.random() < split):
                stack += children
                if node in self.position:
                    nodes.append(node)
                    members.append([self.position[node]])
            else:
                nodes.append(node)
                members.append(self.below[node])
        return nodes, members

    def sampled_cut(self, rng: np.random.Generator, mass: np.ndarray, size: int) -> Cut:
        """At most `size` nodes of a random cut: three quarters those with most `mass` (leaves,), the rest at random."""
        nodes, members = self.cut(rng)
        node_mass = np.array([mass[leaves].sum() for leaves in members])
        order = np.argsort(-node_mass, kind="stable")
        head = order[: size * 3 // 4]
        rest = rng.permutation(order[len(head) :])[: size - len(head)]
        membership = np.full(len(self.leaves), -1)
        kept = np.concatenate([head, rest])
        for position, node in enumerate(kept):
            membership[members[node]] = position
        return Cut([nodes[node] for node in kept], membership)
