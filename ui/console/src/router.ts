import { createRouter, createWebHistory, type RouteLocationRaw, type RouteRecordRaw } from 'vue-router'
import { entries, may, operates, session, whoAmI, type Needs } from './session'
import { failed } from './parts/failed'

declare module 'vue-router' {
  interface RouteMeta {
    /** Anybody may see it. */
    open?: boolean
    /** The operations and abilities that it takes. */
    needs?: Needs
    /** Which entry of the navigation it belongs to. */
    nav?: string
  }
}

const routes: RouteRecordRaw[] = [
  { path: '/', name: 'overview', component: () => import('./pages/Overview.vue'), meta: { nav: 'overview', needs: 'sales.hidden' } },
  { path: '/sign-in', name: 'sign-in', component: () => import('./pages/SignIn.vue'), meta: { open: true } },
  { path: '/setup', name: 'setup', component: () => import('./pages/Setup.vue'), meta: { open: true } },
  { path: '/products', name: 'products', component: () => import('./pages/Products.vue'), meta: { nav: 'products', needs: 'products.unsold' } },
  { path: '/products/new', name: 'product-new', component: () => import('./pages/ProductNew.vue'), meta: { nav: 'products', needs: 'createProduct' } },
  { path: '/products/import', name: 'import', component: () => import('./pages/Import.vue'), meta: { nav: 'products', needs: 'importProducts' } },
  { path: '/products/:id', name: 'product', component: () => import('./pages/Product.vue'), props: true, meta: { nav: 'products', needs: 'products.unsold' } },
  { path: '/sales', name: 'sales', component: () => import('./pages/Sales.vue'), meta: { nav: 'sales', needs: 'sales.hidden' } },
  { path: '/sales/new', name: 'sale-new', component: () => import('./pages/SaleEdit.vue'), meta: { nav: 'sales', needs: ['createSale', 'checkSale'] } },
  { path: '/sales/:id', name: 'sale', component: () => import('./pages/Sale.vue'), props: true, meta: { nav: 'sales', needs: 'sales.hidden' } },
  { path: '/sales/:id/edit', name: 'sale-edit', component: () => import('./pages/SaleEdit.vue'), props: true, meta: { nav: 'sales', needs: ['changeSale', 'checkSale'] } },
  { path: '/sales/:id/live', name: 'live', component: () => import('./pages/Live.vue'), props: true, meta: { nav: 'sales', needs: 'getLive' } },
  { path: '/orders', name: 'orders', component: () => import('./pages/Orders.vue'), meta: { nav: 'orders', needs: ['listOrders', 'orders.of_others'] } },
  { path: '/orders/:id', name: 'order', component: () => import('./pages/Order.vue'), props: true, meta: { nav: 'orders', needs: ['getOrder', 'orders.of_others'] } },
  { path: '/webhooks', name: 'webhooks', component: () => import('./pages/Webhooks.vue'), meta: { nav: 'webhooks', needs: 'listWebhooks' } },
  { path: '/webhooks/:id', name: 'webhook', component: () => import('./pages/Webhook.vue'), props: true, meta: { nav: 'webhooks', needs: 'getWebhook' } },
  { path: '/webhook-deliveries/:id', name: 'delivery', component: () => import('./pages/Delivery.vue'), props: true, meta: { nav: 'webhooks', needs: 'getDelivery' } },
  { path: '/schedules', name: 'schedules', component: () => import('./pages/Schedules.vue'), meta: { nav: 'schedules', needs: 'listSchedules' } },
  { path: '/schedules/:name', name: 'schedule', component: () => import('./pages/Schedule.vue'), props: true, meta: { nav: 'schedules', needs: 'getSchedule' } },
  { path: '/queues', name: 'queues', component: () => import('./pages/Queues.vue'), meta: { nav: 'queues', needs: 'getJobQueue' } },
  { path: '/jobs/:id', name: 'job', component: () => import('./pages/Job.vue'), props: true, meta: { nav: 'queues', needs: 'getJob' } },
  { path: '/events', name: 'events', component: () => import('./pages/Events.vue'), meta: { nav: 'events', needs: 'listEventListeners' } },
  { path: '/events/:name', name: 'listener', component: () => import('./pages/Listener.vue'), props: true, meta: { nav: 'events', needs: 'listEventListeners' } },
  { path: '/audit', name: 'audit', component: () => import('./pages/Audit.vue'), meta: { nav: 'audit', needs: 'listAudit' } },
  { path: '/users', name: 'users', component: () => import('./pages/Users.vue'), meta: { nav: 'users', needs: ['listUsers', 'accounts.of_others'] } },
  { path: '/users/:id', name: 'user', component: () => import('./pages/User.vue'), props: true, meta: { nav: 'users', needs: ['getUser', 'accounts.of_others'] } },
  { path: '/access', name: 'access', component: () => import('./pages/Access.vue'), meta: { nav: 'access', needs: ['listResources', 'listRoles'] } },
  { path: '/access/import', name: 'policy', component: () => import('./pages/Policy.vue'), meta: { nav: 'access', needs: 'importPolicy' } },
  { path: '/limits', name: 'limits', component: () => import('./pages/Limits.vue'), meta: { nav: 'limits', needs: 'listLimits' } },
  { path: '/keys', name: 'keys', component: () => import('./pages/Keys.vue'), meta: { nav: 'keys', needs: 'listSigningKeys' } },
  { path: '/me', name: 'me', component: () => import('./pages/Me.vue') },
  { path: '/forbidden', name: 'forbidden', component: () => import('./pages/Forbidden.vue'), meta: { open: true } },
  { path: '/:rest(.*)*', name: 'not-found', component: () => import('./pages/NotFound.vue') },
]

export const router = createRouter({
  history: createWebHistory('/console/'),
  routes,
  scrollBehavior: (_to, _from, saved) => saved ?? { top: 0 },
})

/** Whether somebody may see the page of a path. */
export function reaches(to: RouteLocationRaw): boolean {
  const { needs } = router.resolve(to).meta
  return !needs || may(needs)
}

router.beforeEach(async (to, from) => {
  if (to.path !== from.path) failed.value = undefined
  if (!session.known) await whoAmI().catch(() => {})
  if (to.meta.open) return true
  if (!operates(session.user)) return { name: 'sign-in', query: to.fullPath === '/' ? {} : { to: to.fullPath } }
  if (to.meta.needs && !may(to.meta.needs)) {
    // Who comes in by the front door is led to the first room that he may enter.
    const first = entries.find((e) => may(e.needs))
    return to.path === '/' && first ? first.to : { name: 'forbidden', query: { page: to.fullPath } }
  }
  return true
})

// A page whose file is gone is older than the server: it is loaded anew, once.
router.onError((error, to) => {
  const stale = /dynamically imported module|Importing a module script failed|error loading/i.test(String(error))
  const url = router.resolve(to.fullPath).href
  if (stale && !session.away && sessionStorage.getItem('levee.console.reloaded') !== url) {
    sessionStorage.setItem('levee.console.reloaded', url)
    location.assign(url)
    return
  }
  failed.value = error instanceof Error ? error : new Error(String(error))
})
router.afterEach(() => sessionStorage.removeItem('levee.console.reloaded'))
