"""RLOO's objective in TRL."""

from __future__ import annotations

from objdsl.frameworks.trl_writer import Writer


class Rloo(Writer):
    title = "RLOO"

    def body(self) -> None:
        settings = self.settings
        names, weights = self.rewards()
        low, high = self.bounds()
        beta = settings.number("beta")
        if beta:
            self.param("beta", "beta", "(-inf, inf)")
        self.gap()
        reward = self.reward(names, weights)
        limits = settings.numbers("reward_clip_range")
        if limits is not None:
            if len(limits) != 2:
                settings.refuse("reward_clip_range", "TRL takes two bounds here", "write [-1, 1]")
                limits = [0.0, 1.0]
            self.write(
                f"C = clip({reward}, {limits[0]:.12g}, {limits[1]:.12g})", "reward_clip_range"
            )
            reward = "C"
        if beta:
            self.write(f"K = {reward} - beta * sum[t{self.unmasked}] k1(old, ref)", "beta")
            reward = "K"
        centred = f"{reward} - mean[j != i] {reward}"
        if settings.flag("normalize_advantages"):
            self.write(f"B = {centred}")
            self.write("A = (B - mean[p,i] B) / (std[p,i] B + 1e-4)", "normalize_advantages")
        else:
            self.write(f"A = {centred}")
        self.write(f"r = exp(sum[t{self.unmasked}] log(pi / old))")
        self.sample("mu" if self.altered else "old")
        self.write(f"maximize mean[p,i] surrogate(r, A, 1 - {low}, 1 + {high})")
