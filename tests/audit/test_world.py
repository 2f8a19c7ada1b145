"""The small language and its closed forms, against direct sums and against autograd."""

from __future__ import annotations

import pytest
import torch

from objdsl.audit.draws import all_draws, draw_count, some_draws
from objdsl.audit.target import divergences, policy_gradient
from objdsl.audit.world import World, world

PROMPTS = 2


@pytest.fixture
def small() -> World:
    return world(3, 3)


def logits(w: World, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (PROMPTS, w.states, w.vocabulary)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def test_the_language_is_complete(small: World) -> None:
    assert (small.states, small.responses) == (7, 15)
    assert small.chance(logits(small, 0)).sum(-1) == pytest.approx([1, 1], abs=1e-14)
    assert small.lengths.tolist() == [1] * 1 + [2] * 2 + [3] * 12
    assert int(small.truncated.sum()) == 8


def test_a_vocabulary_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        world(1, 3)


def test_scores_are_the_gradient_of_the_log_probabilities(small: World) -> None:
    pi = logits(small, 1)
    jacobian = torch.autograd.functional.jacobian(small.log_prob, pi)
    scores = small.scores(pi)
    for p in range(PROMPTS):
        assert torch.allclose(jacobian[p, :, :, p].flatten(-2), scores[p], atol=1e-14)


def test_the_policy_gradient_is_the_gradient_of_the_expected_reward(small: World) -> None:
    pi, reward = logits(small, 2).requires_grad_(), torch.rand(PROMPTS, 15).double()
    mean_reward = (small.chance(pi) * reward).sum() / PROMPTS
    (gradient,) = torch.autograd.grad(mean_reward, pi)
    assert torch.allclose(policy_gradient(small, pi.detach(), reward), gradient.flatten())


def test_divergences_are_their_definitions(small: World) -> None:
    """Those over responses by autograd; those per token with the visits held fixed."""
    pi, q = logits(small, 3).requires_grad_(), logits(small, 4)
    log_pi, log_q = small.log_prob(pi).sum(-1), small.log_prob(q).sum(-1)
    p_dist, q_dist = small.log_dist(pi), small.log_dist(q)
    # The probability of a response, at each of its tokens, adds up to how often a state is visited.
    visits = small.chance(pi).detach()[..., None] * small.mask
    values = {
        "reverse KL, whole response": (log_pi.exp() * (log_pi - log_q)).sum(),
        "forward KL, whole response": (log_q.exp() * (log_q - log_pi)).sum(),
        "reverse KL, per token": (visits * (p_dist.exp() * (p_dist - q_dist)).sum(-1)).sum(),
        "forward KL, per token": (visits * (q_dist.exp() * (q_dist - p_dist)).sum(-1)).sum(),
    }
    for divergence in divergences(small, pi.detach(), q, small.chance(pi.detach())):
        (gradient,) = torch.autograd.grad(values[divergence.name] / PROMPTS, pi, retain_graph=True)
        assert torch.allclose(divergence.gradient, gradient.flatten(), atol=1e-12), divergence.name


def test_the_value_is_the_expected_reward_from_a_state_on(small: World) -> None:
    pi, reward = logits(small, 5), torch.rand(PROMPTS, 15).double()
    value = small.value(pi, small.to_go(reward))
    assert torch.allclose(value[:, :, 0], (small.chance(pi) * reward).sum(-1, keepdim=True))
    text = next(k for k in range(15) if small.tokens[k].tolist() == [1, 2, 0])
    ends = [k for k in range(15) if small.tokens[k, :2].tolist() == [1, 2]]
    last = small.log_dist(pi)[0, text, 2].exp()
    expected = sum(last[int(small.tokens[k, 2])] * reward[0, k] for k in ends)
    assert value[0, text, 2] == pytest.approx(float(expected))


@pytest.mark.parametrize(("prompts", "group"), [(1, 1), (1, 3), (2, 2)])
def test_draws_by_symmetry_are_all_sequences(prompts: int, group: int) -> None:
    """Multisets with their multiplicities give what the sum over all sequences of draws gives."""
    w = world(2, 2)
    pi = logits(w, 6)[:prompts]
    mu = w.chance(pi)
    draws = all_draws(w.responses, prompts, group)
    assert len(draws) == draw_count(w.responses, prompts, group)
    chance = draws.chance(mu)
    assert float(chance.sum()) == pytest.approx(1)
    # A symmetric statistic: the largest reward of the group of the first prompt.
    reward = torch.tensor([0.2, 0.7, 0.4], dtype=torch.float64)
    sequences = torch.cartesian_prod(*[torch.arange(w.responses)] * group).view(-1, group)
    direct = (mu[0][sequences].prod(-1) * reward[sequences].amax(-1)).sum()
    assert float(chance @ reward[draws.response[:, 0]].amax(-1)) == pytest.approx(float(direct))


def test_random_draws_weigh_the_same(small: World) -> None:
    mu = small.chance(logits(small, 7))
    draws = some_draws(mu, 2, 500, torch.Generator().manual_seed(0))
    assert draws.response.shape == (500, PROMPTS, 2)
    assert not draws.exact
    assert float(draws.chance(mu).sum()) == pytest.approx(1)
