import time, numpy as np, pytest
import mesalens as ml
from mesalens import random
from mesalens.identification import identify
from mesalens.tasks import *
TASK = RegressionTask(Gaussian(2), LinearFunctions(2), context_length=5, noise=GaussianNoise(0.25))
def ridge(xs, ys, q):
    return np.einsum("bd,bdm->bm", q, np.linalg.solve(xs.mT@xs+.7*np.eye(2), xs.mT@ys))
from sklearn.neighbors import KNeighborsRegressor
from sklearn.linear_model import Ridge
@pytest.mark.parametrize("model", [ridge, ridge, KNeighborsRegressor(3), Ridge(0.7, fit_intercept=False)])
def test_a(model, tmp_path, monkeypatch):
    t=time.time(); c=time.process_time()
    last=[t,""]
    def p(w,s):
        now=time.time(); 
        if now-last[0]>.3: print(f"   {now-last[0]:.1f} {last[1]} -> {w}")
        last[:]=[now,w]
    r = identify(model, TASK, prompts=1024, progress=p)
    print(r, time.time()-t, time.process_time()-c)
    print({k:v for k,v in r.left_out.items()})
