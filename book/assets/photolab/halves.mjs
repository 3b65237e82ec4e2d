// The file of the weights: a header, and numbers in half precision.

/** All numbers of half precision (IEEE 754 binary16), each at the place that its sixteen bits name. */
function allHalves() {
  return Float32Array.from({ length: 65536 }, (_, bits) => {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31, fraction = (bits & 1023) / 1024;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
  });
}

/**
 * Takes the file apart; photo_lab.py says how it is laid out.
 * @param {ArrayBuffer} file
 * @returns {{layers: object[], shape: number[], numbers: Float32Array}}
 * @throws {RangeError}  a file that is not whole
 */
export function readHalves(file) {
  const length = new DataView(file).getUint32(0, true);
  const { layers, shape, count } = JSON.parse(new TextDecoder().decode(new Uint8Array(file, 4, length)));
  const halves = new Uint16Array(file, 4 + length);
  if (halves.length !== count) throw new RangeError("The file of weights is incomplete.");
  const table = allHalves();
  const numbers = new Float32Array(count); // `Float32Array.from` takes ten times as long
  for (let i = 0; i < count; i++) numbers[i] = table[halves[i]];
  return { layers, shape, numbers };
}
