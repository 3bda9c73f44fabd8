"use strict";
// Random numbers that are the same in every browser: Marsaglia's xorshift on 32 bits, with a Weyl
// sequence ("xorwow"), seeded by a number.

class Random {
  constructor(seed) {
    const start = [seed ^ 0x9e3779b9, seed ^ 0x243f6a88, seed ^ 0xb7e15162, 0x85a308d3, 0x13198a2e];
    this.state = start.map((x) => x >>> 0);
    this.weyl = 0;
    for (let i = 0; i < 64; i++) this.uniform();
  }

  // From the open interval (0, 1).
  uniform() {
    let t = this.state[4];
    const s = this.state[0];
    this.state = [0, s, this.state[1], this.state[2], this.state[3]];
    t ^= t >>> 2;
    t ^= t << 1;
    t ^= s ^ (s << 4);
    this.state[0] = t >>> 0;
    this.weyl = (this.weyl + 362437) >>> 0;
    return (((this.state[0] + this.weyl) >>> 0) + 0.5) / 2 ** 32;
  }

  // From N(0, 1), by Box and Muller's formula.
  normal() {
    return Math.sqrt(-2 * Math.log(this.uniform())) * Math.cos(2 * Math.PI * this.uniform());
  }

  // A normal that is truncated at two standard deviations, of variance 1.
  truncated() {
    for (;;) {
      const value = this.normal();
      if (Math.abs(value) <= 2) return value / 0.87962566103423978;
    }
  }
}
