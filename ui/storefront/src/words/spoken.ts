// Spans of time in words.
import { t } from '.'

/** Seconds as words, rounded: 40 → "under a minute", 90 → "2 minutes". */
export function span(seconds: number): string {
  if (seconds < 60) return t('time.underMinute')
  const minutes = Math.round(seconds / 60)
  return minutes < 90 ? t('time.minute', {}, minutes) : t('time.hour', {}, Math.round(minutes / 60))
}

/** Seconds exactly, in the largest unit that divides them well: 1800 → "30 minutes". */
export function exactly(seconds: number): string {
  if (seconds < 60) return t('time.second', {}, seconds)
  if (seconds < 7200) return t('time.minute', {}, Math.round(seconds / 60))
  if (seconds < 172_800) return t('time.hour', {}, Math.round(seconds / 3600))
  return t('time.day', {}, Math.round(seconds / 86_400))
}

/** An honest estimate: a range, never one number. */
export function range(low: number, high: number): string {
  if (high < 60) return t('time.underMinute')
  const l = Math.max(1, Math.floor(low / 60))
  const h = Math.max(l, Math.ceil(high / 60))
  if (h >= 120) return t('time.about', { time: span((low + high) / 2) })
  return l === h ? t('time.about', { time: t('time.minute', {}, l) }) : t('time.range', { low: l, high: h })
}
