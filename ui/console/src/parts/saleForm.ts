// The terms of a sale as they are typed, and as the server wants them.
import type { Sale, Terms } from '../api'
import { t } from '../lang'
import { amountOf, localOf, momentOf, typed, wholeOf } from './money'

export interface SaleText {
  sku: string
  title: string
  price: string
  currency: string
  mode: Sale['mode']
  starts_at: string
  ends_at: string
  draw_at: string
  pay_within: string // minutes
  units: string
  per_buyer: string
  waiting_list: boolean
  token_needed: boolean
  room: boolean
  order: Sale['admission']['order']
  per_second: string
  multiple: string
  brake: Sale['admission']['brake']
  work_bits: string
  per_address: string
}
export type SaleField = keyof SaleText

/** The server's names of the terms → the form's. */
export const saleNames: Record<string, SaleField> = {
  'body.sku': 'sku',
  'body.title': 'title',
  'body.price': 'price',
  'body.price.amount': 'price',
  'body.price.currency': 'price',
  'body.mode': 'mode',
  'body.starts_at': 'starts_at',
  'body.ends_at': 'ends_at',
  'body.draw_at': 'draw_at',
  'body.pay_within_seconds': 'pay_within',
  'body.units': 'units',
  'body.per_buyer': 'per_buyer',
  'body.waiting_list': 'waiting_list',
  'body.token_needed': 'token_needed',
  'body.admission.room': 'room',
  'body.admission.order': 'order',
  'body.admission.per_second': 'per_second',
  'body.admission.multiple': 'multiple',
  'body.admission.brake': 'brake',
  'body.admission.work_bits': 'work_bits',
  'body.admission.per_address': 'per_address',
}

export function emptySale(now: number): SaleText {
  const hour = 3_600_000
  const start = Math.ceil((now + 600_000) / hour) * hour // the next full hour that is ten minutes away
  return {
    sku: '', title: '', price: '', currency: 'CNY', mode: 'race', starts_at: localOf(start), ends_at: localOf(start + hour), draw_at: localOf(start + hour / 2), pay_within: '30',
    units: '', per_buyer: '1', waiting_list: true, token_needed: true, room: false, order: 'random', per_second: '100', multiple: '3', brake: 'none', work_bits: '16', per_address: '0',
  }
}

export function textOf(s: Sale): SaleText {
  const a = s.admission
  return {
    sku: s.sku, title: s.title, price: typed(s.price), currency: s.price.currency, mode: s.mode, starts_at: localOf(s.starts_at), ends_at: localOf(s.ends_at),
    draw_at: localOf(s.draw_at ?? (Date.parse(s.starts_at) + Date.parse(s.ends_at)) / 2), pay_within: String(s.pay_within_seconds / 60), units: String(s.operator?.units ?? ''),
    per_buyer: String(s.per_buyer), waiting_list: s.waiting_list, token_needed: s.token_needed, room: a.room, order: a.order, per_second: String(a.per_second), multiple: String(a.multiple),
    brake: a.brake, work_bits: String(a.work_bits), per_address: String(a.per_address),
  }
}

/** The terms, with what could not be read in wrong. The server checks the rest. */
export function termsOf(f: SaleText, was?: Sale): { terms: Terms; wrong: Partial<Record<SaleField, string>> } {
  const wrong: Partial<Record<SaleField, string>> = {}
  const whole = (field: SaleField): number => {
    const n = wholeOf(f[field] as string)
    if (n === undefined) wrong[field] = t('form.needWhole')
    return n ?? 0
  }
  const moment = (field: 'starts_at' | 'ends_at' | 'draw_at'): string => {
    // A time that was not touched stays as exact as it was: the form shows whole seconds.
    if (was?.[field] && localOf(was[field]) === f[field]) return was[field]
    const at = momentOf(f[field])
    if (!at) wrong[field] = t('form.needTime')
    return at ?? new Date(0).toISOString()
  }
  const amount = amountOf(f.price, f.currency)
  if (amount === undefined) wrong.price = t('form.needAmount', { currency: f.currency })
  if (!f.sku) wrong.sku = t('form.needed')
  if (!f.title.trim()) wrong.title = t('form.needed')
  const minutes = Number(f.pay_within)
  if (!f.pay_within.trim() || !Number.isFinite(minutes)) wrong.pay_within = t('form.needNumber')
  const draw = f.mode === 'draw'
  const terms: Terms = {
    title: f.title.trim(),
    sku: f.sku,
    price: { amount: amount ?? -1, currency: f.currency },
    units: whole('units'),
    per_buyer: whole('per_buyer'),
    starts_at: moment('starts_at'),
    ends_at: moment('ends_at'),
    ...(draw && { draw_at: moment('draw_at') }),
    pay_within_seconds: Number.isFinite(minutes) ? Math.round(minutes * 60) : 0,
    mode: f.mode,
    waiting_list: draw || f.waiting_list,
    token_needed: f.token_needed || (!draw && (f.room || f.brake !== 'none')),
    admission: {
      room: !draw && f.room,
      order: f.order,
      per_second: f.room ? whole('per_second') : (wholeOf(f.per_second) ?? 100),
      multiple: f.room ? whole('multiple') : (wholeOf(f.multiple) ?? 3),
      brake: draw ? 'none' : f.brake,
      work_bits: wholeOf(f.work_bits) ?? 16,
      per_address: f.room ? whole('per_address') : (wholeOf(f.per_address) ?? 0),
    },
  }
  return { terms, wrong }
}

/** What can no longer be changed, by the state of the sale. */
export function fixedFields(s: Sale | undefined, now: number): Set<SaleField> {
  const state = s?.operator?.state
  if (!s || !state || state === 'draft') return new Set()
  const started = Date.parse(s.starts_at) <= now
  return new Set<SaleField>(['sku', 'units', 'mode', ...((started ? ['price', 'starts_at', 'draw_at', 'room', 'order'] : []) as SaleField[])])
}
