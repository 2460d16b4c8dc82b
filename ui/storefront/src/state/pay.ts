// Paying: the house names the provider's page, and the visitor goes there.
import { onScopeDispose, ref, type Ref } from 'vue'
import { newKey } from '@levee/shared'
import * as house from '../api'
import { keep } from './kept'

/** That a payment was begun: the order's page then knows what it waits for. */
export const wentToPay = (order: string): string => `pay.${order}`

export function usePay(): { paying: Ref<boolean>; pay: (order: string) => Promise<void> } {
  const paying = ref(false)
  let key: string | undefined // the same until there is an answer: a retry begins no second payment

  async function pay(order: string): Promise<void> {
    paying.value = true
    key ??= newKey()
    try {
      const payment = await house.startPayment(order, key)
      const to = new URL(payment.redirect_url ?? '', location.href)
      if (!payment.redirect_url || !/^https?:$/.test(to.protocol)) throw new Error('the provider named no page')
      keep(wentToPay(order), Date.now())
      location.assign(to.href)
    } catch (e) {
      paying.value = false
      if (!(e instanceof Error && 'status' in e && (e as { status: number }).status === 0)) key = undefined
      throw e
    }
  }
  // Back by the browser's back button: the page is as it was, busy for ever.
  const shown = (e: PageTransitionEvent): void => {
    if (e.persisted) {
      paying.value = false
      key = undefined
    }
  }
  addEventListener('pageshow', shown)
  onScopeDispose(() => removeEventListener('pageshow', shown))
  return { paying, pay }
}
