import { encode } from 'uqr'

/** A text as a QR code: the path of an SVG whose viewBox is size by size, a unit a square, dark on light, with the four light squares around that readers need. */
export function qr(text: string): { size: number; path: string } {
  const { data, size } = encode(text, { ecc: 'M', border: 4 })
  return { size, path: data.map((row, y) => row.map((dark, x) => (dark ? `M${x} ${y}h1v1h-1z` : '')).join('')).join('') }
}
