// Between what people type and minor units.
import { minor, type Money } from '@levee/shared'

/** 12900 CNY → 129.00, as it is typed again. */
export function typed(m: Money): string {
  const digits = new Intl.NumberFormat('en', { style: 'currency', currency: m.currency }).resolvedOptions().maximumFractionDigits ?? 2
  return (m.amount / 10 ** digits).toFixed(digits)
}
/** What was typed → minor units; undefined when it is no amount. */
export function amountOf(text: string, currency: string): number | undefined {
  try {
    return minor(text.replaceAll(',', ''), currency)
  } catch {
    return undefined // no such currency
  }
}
/** Whole units of something; undefined when it is no such number. */
export function wholeOf(text: string): number | undefined {
  const bare = text.replaceAll(/[\s,]/g, '')
  return /^-?\d{1,12}$/.test(bare) ? Number(bare) : undefined
}
/** A moment → what an input for local time holds, and back. */
export function localOf(at: string | number): string {
  const d = new Date(at)
  if (Number.isNaN(d.getTime())) return ''
  const two = (n: number): string => String(n).padStart(2, '0')
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}T${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`
}
export function momentOf(local: string): string | undefined {
  const d = new Date(local)
  return local && !Number.isNaN(d.getTime()) ? d.toISOString() : undefined
}
export const zone = (): string => Intl.DateTimeFormat().resolvedOptions().timeZone
