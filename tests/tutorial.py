"""The tutorial's network and plain loop, after its text: the place to begin, and what train.py is compared with."""

import torch
from torch import nn
from torch.utils.data import DataLoader, random_split
from torchvision.datasets import KMNIST
from torchvision.transforms import ToTensor

from neural_lib.lenet import LeNet


class TutorialLeNet(LeNet):
    """The same layers in the tutorial's order: convolution, ReLU, pooling."""

    def forward(self, x):
        x = self.maxpool1(self.relu1(self.conv1(x)))
        x = self.maxpool2(self.relu2(self.conv2(x)))
        x = self.relu3(self.fc1(torch.flatten(x, 1)))
        return self.logSoftmax(self.fc2(x))


class PlainLoop:
    """ToTensor for each image, random_split, NCHW, Adam as it comes and .item() at each step."""

    def __init__(self, data_dir: str, seed: int, device: torch.device, batch_size: int = 64) -> None:
        images = KMNIST(data_dir, train=True, transform=ToTensor())
        parts = random_split(images, [45_000, 15_000], torch.Generator().manual_seed(42))
        self.train_loader = DataLoader(parts[0], batch_size=batch_size, shuffle=True)
        self.val_loader = DataLoader(parts[1], batch_size=batch_size)
        torch.manual_seed(seed)
        self.device = device
        self.model = TutorialLeNet(1, 10).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.loss_fn = nn.NLLLoss()

    def run_epoch(self) -> float:
        """Train and validate once; returns the validation accuracy."""
        self.model.train()
        train_loss, train_correct = 0.0, 0.0
        for images, labels in self.train_loader:
            images, labels = images.to(self.device), labels.to(self.device)
            log_probs = self.model(images)
            loss = self.loss_fn(log_probs, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            train_loss += loss.item()
            train_correct += (log_probs.argmax(1) == labels).type(torch.float).sum().item()

        val_loss, val_correct = 0.0, 0.0
        self.model.eval()
        with torch.no_grad():
            for images, labels in self.val_loader:
                images, labels = images.to(self.device), labels.to(self.device)
                log_probs = self.model(images)
                val_loss += self.loss_fn(log_probs, labels).item()
                val_correct += (log_probs.argmax(1) == labels).type(torch.float).sum().item()
        return val_correct / len(self.val_loader.dataset)
