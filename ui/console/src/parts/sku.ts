import { amountOf, wholeOf } from './money'
import { t } from '../lang'

/** A SKU as it is typed. */
export interface SkuText {
  code: string
  name: string
  price: string
  currency: string
  onHand: string
}
export const emptySku = (): SkuText => ({ code: '', name: '', price: '', currency: 'CNY', onHand: '0' })

/** The server's field names of a SKU → the form's. */
export const skuNames = (at: string): Record<string, string> => ({
  [`${at}code`]: 'sku-code',
  [`${at}name`]: 'sku-name',
  [`${at}price`]: 'price',
  [`${at}price.amount`]: 'price',
  [`${at}price.currency`]: 'currency',
  [`${at}on_hand`]: 'on-hand',
})

/** What was typed as the server wants it; errors go to mine, and then it is undefined. */
export function skuOf(s: SkuText, mine: Record<string, string>): { code: string; name: string; price: { amount: number; currency: string }; on_hand: number } | undefined {
  const amount = amountOf(s.price, s.currency)
  const onHand = wholeOf(s.onHand)
  const wrong = {
    'sku-code': s.code.trim() ? '' : t('form.needed'),
    currency: /^[A-Z]{3}$/.test(s.currency) ? '' : t('sku.currencyHelp'),
    price: amount === undefined ? t('form.needAmount', { currency: s.currency }) : '',
    'on-hand': onHand === undefined || onHand < 0 ? t('form.needWhole') : '',
  }
  Object.assign(mine, wrong)
  if (Object.values(wrong).some(Boolean) || amount === undefined || onHand === undefined) return undefined
  return { code: s.code.trim(), name: s.name.trim(), price: { amount, currency: s.currency }, on_hand: onHand }
}
