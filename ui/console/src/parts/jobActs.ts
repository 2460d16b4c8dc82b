// What may be done to one job, asked first.
import { cancelJob, retryJob, type Job } from '../api'
import { t } from '../lang'
import { confirmAct } from './confirm'
import { toast } from './toast'

export const askCancel = (j: Job, after: () => Promise<void>): void =>
  confirmAct({
    title: t('job.cancel'),
    effect: [t(j.state === 'running' ? 'job.cancelRunning' : 'job.cancelWaiting'), t('job.cancelLast')],
    yes: t('job.cancel'),
    danger: true,
    async run() {
      await cancelJob(j.id)
      toast(t('job.cancelled'))
      await after()
    },
  })

export const askRetry = (j: Job, after: () => Promise<void>): void =>
  confirmAct({
    title: `${t('job.retry')}: ${j.kind}`,
    effect: [t('job.retryEffect')],
    yes: t('job.retry'),
    async run() {
      await retryJob(j.id)
      toast(t('job.retried'))
      await after()
    },
  })
