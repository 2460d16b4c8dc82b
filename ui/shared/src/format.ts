// How money, numbers and times are shown. Amounts are in minor units, as the API has them.

export interface Money {
  amount: number
  currency: string
}

const digitsOf = (currency: string): number =>
  new Intl.NumberFormat('en', { style: 'currency', currency }).resolvedOptions().maximumFractionDigits ?? 2

/** 12900 CNY → ¥129.00, by the language. */
export function money(m: Money, locale: string): string {
  const digits = digitsOf(m.currency)
  return new Intl.NumberFormat(locale, { style: 'currency', currency: m.currency, currencyDisplay: 'narrowSymbol' }).format(m.amount / 10 ** digits)
}

/** What a person typed → minor units; undefined when it is no amount of this currency. */
export function minor(text: string, currency: string): number | undefined {
  const digits = digitsOf(currency)
  const match = /^(\d{1,13})(?:\.(\d+))?$/.exec(text.trim())
  if (!match || (match[2]?.length ?? 0) > digits) return undefined
  return Number(match[1]) * 10 ** digits + Number((match[2] ?? '').padEnd(digits, '0') || 0)
}

export const number = (n: number, locale: string): string => new Intl.NumberFormat(locale).format(n)

export const time = (at: string | number | Date, locale: string, style: Intl.DateTimeFormatOptions = { dateStyle: 'medium', timeStyle: 'short' }): string =>
  new Intl.DateTimeFormat(locale, style).format(new Date(at))

/** Milliseconds as 1d 02:03:04, or 02:03; negative counts as zero. */
export function countdown(ms: number): { days: number; text: string } {
  const s = Math.max(0, Math.ceil(ms / 1000))
  const days = Math.floor(s / 86_400)
  const two = (n: number): string => String(n).padStart(2, '0')
  const h = Math.floor((s % 86_400) / 3600)
  const rest = `${two(Math.floor((s % 3600) / 60))}:${two(s % 60)}`
  return { days, text: days > 0 || h > 0 ? `${two(h)}:${rest}` : rest }
}
