"use strict";
// Gradient flow, dθ/dt = -∂R/∂θ, by the method of Dormand and Prince: order 5, with an error of
// order 4 that sets the size of the steps.

const STAGES = [
  [1 / 5],
  [3 / 40, 9 / 40],
  [44 / 45, -56 / 15, 32 / 9],
  [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
  [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
  [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
];
const ERROR = [71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40];

class Flow {
  constructor(layer, theta, { relative = 1e-8, absolute = 1e-11 } = {}) {
    Object.assign(this, { layer, theta: Float64Array.from(theta), relative, absolute, time: 0, steps: 0 });
    this.stages = range(7).map(() => new Float64Array(theta.length));
    this.risk = this.velocity(this.theta, this.stages[0]);
    this.size = 1e-3 * Math.hypot(...this.theta) / Math.max(Math.hypot(...this.stages[0]), 1e-300);
    const m = layer.moments, least = lowerBound(m);
    this.near = least + 1e-6 * (m.null - least);
  }

  velocity(theta, out) {
    const risk = this.layer.slope(theta, out);
    for (let i = 0; i < out.length; i++) out[i] = -out[i];
    return risk;
  }

  // At the risk of the best step, without a slope. At saddles the slope is as small.
  get arrived() {
    return this.risk <= this.near && Math.hypot(...this.stages[0]) < 1e-9;
  }

  // Integrates to a time, or until a deadline on the clock. Returns whether it is there.
  advance(time, deadline = Infinity) {
    while (this.time < time && !this.arrived) {
      if (performance.now() > deadline) return false;
      const last = this.size >= time - this.time, size = last ? time - this.time : this.size;
      const error = this.attempt(size);
      if (error <= 1) {
        this.time = last ? time : this.time + size;
        this.steps += 1;
        [this.theta, this.next] = [this.next, this.theta];
        [this.stages[0], this.stages[6]] = [this.stages[6], this.stages[0]];
        this.risk = this.nextRisk;
      }
      const factor = Math.min(5, Math.max(0.2, 0.9 * error ** -0.2));
      if (!(error <= 1 && last && factor >= 1)) this.size = size * factor;
    }
    return true;
  }

  // A step; its error in units of the tolerance.
  attempt(size) {
    const { theta, stages } = this;
    this.next ??= new Float64Array(theta.length);
    STAGES.forEach((weights, stage) => {
      for (let i = 0; i < theta.length; i++) {
        let change = 0;
        for (let j = 0; j <= stage; j++) change += weights[j] * stages[j][i];
        this.next[i] = theta[i] + size * change;
      }
      this.nextRisk = this.velocity(this.next, stages[stage + 1]);
    });
    let total = 0;
    for (let i = 0; i < theta.length; i++) {
      let error = 0;
      for (let j = 0; j < 7; j++) error += ERROR[j] * stages[j][i];
      const scale = Math.max(Math.abs(theta[i]), Math.abs(this.next[i]));
      total += (size * error / (this.absolute + this.relative * scale)) ** 2;
    }
    const error = Math.sqrt(total / theta.length);
    return Number.isFinite(error) ? Math.max(error, 1e-10) : 1e10;
  }
}
