"use strict";
// What is free in a layer: parameters, and the maps from them to A and B of all heads and, for the
// slopes, back. A and B are a parameter each or a product, A = W_Kᵀ W_Q and B = P W_V; what is
// smaller than D × D, D = d + 1, is a corner of them: the first of A, the last of B. The shapes are
// rows, columns and fan-in; weights start as truncated normals of the variance scale / fan-in.

const STRUCTURES = {
  lowrank: {
    label: "keys, queries of rank R",
    A: ["W_K", "W_Q"],
    B: ["B_yy"],
    shapes: ({ d, rank }) => ({ W_Q: [rank, d, d], W_K: [rank, d, d], B_yy: [1, 1, 1] }),
  },
  sparse: {
    label: "keys and queries merged",
    A: ["A_xx"],
    B: ["B_yy"],
    shapes: ({ d }) => ({ A_xx: [d, d, d], B_yy: [1, 1, 1] }),
  },
  factors: {
    label: "all four factors",
    A: ["W_K", "W_Q"],
    B: ["P", "W_V"],
    shapes: ({ d, heads }) => {
      const D = d + 1;
      return { W_Q: [D, D, D], W_K: [D, D, D], W_V: [D, D, D], P: [D, D, heads * D] };
    },
  },
  merged: {
    label: "A and B",
    A: ["A"],
    B: ["B"],
    shapes: ({ d }) => ({ A: [d + 1, d + 1, d + 1], B: [d + 1, d + 1, d + 1] }),
  },
};

// Where each parameter stands in the vector of all; it has one block for each head.
function layout(options) {
  const places = {};
  let end = 0;
  for (const [name, shape] of Object.entries(STRUCTURES[options.structure].shapes(options))) {
    const [rows, columns, fanIn] = shape;
    places[name] = { rows, columns, fanIn, start: end };
    end += options.heads * rows * columns;
  }
  return { places, length: end };
}

function startingWeights(options) {
  const { places, length } = layout(options), random = new Random(options.seed);
  const theta = new Float64Array(length);
  for (const { rows, columns, fanIn, start } of Object.values(places)) {
    const deviation = Math.sqrt(options.scale / fanIn);
    for (let i = 0; i < options.heads * rows * columns; i++)
      theta[start + i] = Math.fround(deviation * random.truncated());
  }
  return theta;
}

class Layer {
  constructor(t, options) {
    Object.assign(this, { task: t, moments: moments(t), options, ...layout(options) });
    this.structure = STRUCTURES[options.structure];
    this.width = t.d + 1;
    const size = options.heads * this.width ** 2;
    [this.A, this.B, this.dA, this.dB] = range(4).map(() => new Float64Array(size));
    this.corner = { A: this.corners("A"), B: this.corners("B") };
  }

  block(theta, name, h) {
    const { rows, columns, start } = this.places[name], size = rows * columns;
    return theta.subarray(start + h * size, start + (h + 1) * size);
  }

  // The places in A or B of all heads where the corner of each head stands.
  corners(matrix) {
    const D = this.width, size = this.places[this.structure[matrix].at(-1)].columns;
    const shift = matrix === "B" ? D - size : 0;
    return range(this.options.heads).map((h) => range(size * size).map((place) => {
      const i = Math.floor(place / size) + shift, j = (place % size) + shift;
      return (h * D + i) * D + j;
    }));
  }

  // Calls a function for A and B of each head, with the names of its parameters.
  forEach(visit) {
    for (const matrix of ["A", "B"])
      for (let h = 0; h < this.options.heads; h++) visit(matrix, h, this.structure[matrix]);
  }

  // Computes A and B.
  effective(theta) {
    this.forEach((matrix, h, names) => {
      const { rows, columns: size } = this.places[names.at(-1)];
      const [first, second] = names.map((name) => this.block(theta, name, h));
      const left = matrix === "A"; // W_Kᵀ W_Q, but P W_V
      const values = second ? product(first, second, size, rows, size, { left }) : first;
      this.corner[matrix][h].forEach((place, i) => (this[matrix][place] = values[i]));
    });
  }

  risk(theta) {
    this.effective(theta);
    return layerRisk(this.task, this.moments, this.options.heads, this.A, this.B);
  }

  // Computes the slope of the risk in all parameters, and returns the risk.
  slope(theta, slope) {
    this.effective(theta);
    const { task: t, moments: m, options, A, B, dA, dB } = this;
    const risk = layerRisk(t, m, options.heads, A, B, [dA, dB]);
    this.forEach((matrix, h, names) => {
      const { rows, columns: size } = this.places[names.at(-1)], all = matrix === "A" ? dA : dB;
      const change = this.corner[matrix][h].map((place) => all[place]);
      const [first, second] = names.map((name) => this.block(theta, name, h));
      const [ofFirst, ofSecond] = names.map((name) => this.block(slope, name, h));
      if (!second) ofFirst.set(change);
      else if (matrix === "A") { // dK = Q dAᵀ, dQ = K dA
        ofFirst.set(product(second, change, rows, size, size, { right: true }));
        ofSecond.set(product(first, change, rows, size, size));
      } else { // dP = dB Vᵀ, dV = Pᵀ dB
        ofFirst.set(product(change, second, size, size, rows, { right: true }));
        ofSecond.set(product(first, change, rows, size, size, { left: true }));
      }
    });
    return risk;
  }
}
